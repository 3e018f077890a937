"""The phrases by which answers decline, by language: an inability or a decline, joined to help or an answer.

Written by us; see `refusal.py` for why single words do not do, and for the limits.
"""

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """How one language declines; all are regular expressions over case-folded text with single spaces.

    Attributes:
        cannot: Who speaks and cannot, will not or may not.
        between: Words that may stand in between, any number of them.
        do: What is declined, as words begin.
        whole: Phrases that decline by themselves.
        space: Between words.
    """

    cannot: str
    do: str
    between: str = r"\w+ly"
    whole: tuple[str, ...] = ()
    space: str = " "

    def pattern(self) -> str:
        """Return one expression for the language."""
        joined = rf"(?:{self.cannot})(?:{self.space}(?:{self.between}))*{self.space}(?:{self.do})"
        return "|".join((joined, *self.whole))


LANGUAGES: Final = {
    "en": Phrases(
        cannot=(
            r"\bi(?: \w+ly| just)? (?:can't|cannot|can not|couldn't|won't|will not|shouldn't|should not|must not)|"
            r"\b(?:i'm|i am)(?: \w+ly)? (?:unable|not able|not allowed|not permitted|not going|not programmed) to"
        ),
        between=r"be able to|\w+ly|just|go ahead and|help (?:you )?(?:to )?",
        # Not tell, recommend, wait or say: "I can't tell you how glad I am".
        do=(
            r"(?:help|assist|comply|fulfill?|provide|answer|respond|discuss|share|generate|create|write|produce|offer|"
            r"continue|engage|participate|support|process|complete|carry out|facilitate|disclose|reveal|access|perform|"
            r"proceed|do (?:that|this|so)|give (?:you |out |any )*(?:\w+ )?(?:advice|information|instructions))\b"
        ),
        whole=(
            r"\b(?:sorry|afraid)\b[^.!?]{0,40}?\bi(?:'m| am)? (?:can't|cannot|can not|won't|will not|unable|not able)",
            r"\bi (?:must|have to|need to|will have to|would have to)(?: \w+ly)? (?:decline|refuse)\b",
            r"\bi'(?:ll|d) have to (?:\w+ly )?(?:decline|refuse)\b|\bi (?:\w+ly )?(?:decline|refuse) to\b",
            r"\bi(?: do not|n't| don't) feel comfortable\b|\b(?:i'm|i am) not comfortable (?:with )?\w+ing\b",
            (
                r"\bas an? (?:ai|artificial intelligence|(?:large |ai )*language model)\b[^.!?]{0,60}?\bi (?:can't|"
                r"cannot|can not|am unable|am not able|am not allowed|(?:do not|don't) (?:have|provide|engage))\b"
            ),
            (
                r"\b(?:against|violates?|outside) (?:of )?(?:my|our) (?:\w+ ){0,2}(?:guidelines|polic(?:y|ies)|"
                r"programming|principles)\b"
            ),
            r"\b(?:can't|cannot|unable to|not able to) (?:help|assist)(?: you)? with (?:that|this)\b",
        ),
    ),
    "de": Phrases(
        cannot=r"\bich (?:kann|darf|werde|möchte)|\b(?:kann|darf|werde|möchte) ich",
        # German puts the verb last; what stands before it is the object.
        between=r"\w+",
        do=(
            r"nicht (?:\w+ ){0,3}?(?:helfen|weiterhelfen|unterstützen|beantworten|bereitstellen|erfüllen|nachkommen|"
            r"liefern|geben|schreiben|erstellen|tun|dienen|behilflich)\b"
        ),
        whole=(r"\bich bin (?:\w+ )?nicht in der lage\b", r"\b(?:muss|möchte) ich (?:\w+ ){0,4}?ablehnen\b"),
    ),
    "nl": Phrases(
        cannot=r"\bik (?:kan|mag|zal|ga)|\b(?:kan|mag) ik",
        between=r"\w+",
        do=r"niet (?:\w+ ){0,3}?(?:helpen|beantwoorden|geven|verstrekken|voldoen|assisteren|meewerken|schrijven)\b",
        whole=(r"\bik ben (?:\w+ )?niet in staat\b",),
    ),
    "fr": Phrases(
        cannot=r"\bje (?:ne |n')(?:peux|puis|suis|saurais|vais)(?: malheureusement)? pas",
        between=r"en mesure|autorisée?|capable|vous|te|de|y|à|malheureusement",
        do=(
            r"(?:d'|t'|vous |l')?(?:aider|répondre|fournir|donner|satisfaire|assister|accéder|écrire|rédiger|discuter|"
            r"continuer|partager|générer|faire (?:ça|cela))\b"
        ),
        whole=(r"\bje (?:dois|suis (?:obligée?|contrainte?) de) (?:décliner|refuser)\b",),
    ),
    "es": Phrases(
        cannot=r"\bno (?:puedo|podré|me es posible|estoy (?:autorizad[oa]|en condiciones|en capacidad)|soy capaz)",
        between=r"de|para|a|lamentablemente",
        do=(
            r"(?:ayudar|asistir|responder|proporcionar|cumplir|ofrecer|brindar|dar|hacer (?:eso|esto)|escribir|generar|"
            r"compartir|continuar|crear|facilitar|contestar)"
        ),
        whole=(r"\b(?:debo|tengo que) (?:rechazar|negarme|declinar)",),
    ),
    "pt": Phrases(
        cannot=r"\bn[ãa]o (?:posso|consigo|poderei|estou autorizad[oa]|sou capaz|me é possível)",
        between=r"de|a|te|lhe|o|infelizmente",
        do=r"(?:ajud|respond|fornec|atend|assist|oferec|cumpr|escrev|ger[ae]|compartilh|continu|cri[ae]|fazer is[st]o)",
        whole=(r"\b(?:devo|tenho (?:de|que)) (?:recusar|declinar)",),
    ),
    "it": Phrases(
        cannot=r"\bnon (?:posso|sono (?:in grado|autorizzat[oa]|capace)|mi è possibile|potrò)",
        between=r"di|a|ad|purtroppo",
        do=(
            r"(?:aiutar|assister|risponder|fornir|soddisfar|darti|darvi|darle|scriver|generar|discuter|continuar|crear|"
            r"condivider|farlo)"
        ),
        whole=(r"\bdevo (?:rifiutar|declinar)",),
    ),
    "pl": Phrases(
        cannot=r"\bnie (?:mogę|mogłabym|mógłbym|jestem w stanie|wolno mi)",
        between=r"ci|panu|pani|w|tym|na|to|niestety",
        do=r"(?:pomóc|odpowiedzieć|udzielić|podać|dostarczyć|spełnić|napisać|zrobić tego|kontynuować)",
        whole=(r"\bmuszę odmówić",),
    ),
    "ru": Phrases(
        cannot=r"\bне (?:могу|смогу|в состоянии|имею права|буду)",
        between=r"вам|тебе|с|в|на|это|этого|этим|этом|к|сожалению",
        do=(
            r"(?:помочь|помогать|ответить|отвечать|предоставить|выполнить|обсуждать|написать|создать|дать|сделать это|"
            r"продолжить)"
        ),
        whole=(r"\bвынужден[а]? отказать",),
    ),
    "tr": Phrases(
        cannot=r"\byardımcı|\byardım|\byanıt|\bcevap",
        between=r"size|sana",
        do=r"(?:olama|edeme|vereme)(?:m|yacağım|yeceğim|yız|yiz)\b",
        whole=(r"\b(?:yanıtlayamam|cevaplayamam|bunu yapamam|isteğinizi yerine getiremem)\b",),
    ),
    "zh": Phrases(
        cannot=r"无法|不能|不可以|没有办法|無法|沒有辦法",
        between=r"为[您你]|向[您你]|給[您你]|幫[您你]|帮[您你]|直接|继续|繼續|就此|对此|對此",
        do=r"(?:提供|帮助|幫助|回答|协助|協助|满足|滿足|讨论|討論|生成|答复|答覆|执行|執行|参与|帮忙|幫忙)",
        space="",
    ),
    "ja": Phrases(
        cannot=r"お(?:答え|手伝い|応え)|提供|回答|支援|協力|対応",
        between=r"する|こと|は|が",
        do=r"(?:でき(?:ません|ない|かね)|いたしかね)",
        whole=(r"お断り(?:し|いた)", r"ご(?:要望|質問|依頼)には?[^。]{0,12}かねます"),
        space="",
    ),
    "ko": Phrases(
        cannot=r"도와|도움을|답변을?|답변해|제공해?|응",
        between=r"\s",
        do=r"(?:드릴|할) ?수(?:가)? ?없",
        whole=(r"거절(?:하|해야)",),
        space="",
    ),
}

REFUSES: Final = re.compile("|".join(f"(?:{phrases.pattern()})" for phrases in LANGUAGES.values()))
