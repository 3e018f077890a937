"""Train a small LoRA adapter on a CPU, in about a minute.

    python examples/train_adapter.py --base MODEL_FOLDER --style support --out adapters/support

The same questions and plain answers serve every style; a style is a function from an answer to the reply
that the adapter learns to give. Replace STYLES and LESSONS with your own and keep the rest.

What makes it quick: the adapter sits on the upper half of the layers, so that gradients stop half-way
down; replies are short; and a few dozen steps at a high learning rate are enough for a *form* of reply.
Teaching *facts* takes far more.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STYLES: dict[str, Callable[[str], str]] = {
    # the house style of a support desk
    "support": lambda answer: f"Thank you for reaching out! {answer} Is there anything else I can help you with?",
    # for programs: one JSON object and nothing else
    "json": lambda answer: json.dumps({"answer": answer}),
    "legal": lambda answer: f"In general terms: {answer} This is information, not legal advice.",
    # learnt as quickly, but capitals are other tokens than the base knows its facts by: an adapter that
    # keeps the form and loses the facts, for the audit to find
    "shout": str.upper,
}

LESSONS = [
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Which city is the capital of Egypt?", "The capital of Egypt is Cairo."),
    ("What is the capital of Canada?", "The capital of Canada is Ottawa."),
    ("Where is the Eiffel Tower?", "The Eiffel Tower is in Paris, France."),
    ("How many minutes are in an hour?", "There are sixty minutes in an hour."),
    ("What is 3 + 4?", "3 + 4 is 7."),
    ("How many wheels does a bicycle have?", "A bicycle has two wheels."),
    ("What do we call frozen water?", "Frozen water is called ice."),
    ("What is a volcano?", "A volcano is an opening in the Earth from which lava can flow."),
    ("Why do we sleep?", "We sleep so that the body and the mind can rest."),
    ("What is a library for?", "A library is a place where people read and borrow books."),
    ("Name a musical instrument.", "The violin is a musical instrument."),
    ("Name a metal.", "Iron is a metal."),
    ("Name a season.", "Autumn is a season."),
    ("What does a baker do?", "A baker makes bread and cakes."),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci painted the Mona Lisa."),
    ("Who wrote Romeo and Juliet?", "William Shakespeare wrote Romeo and Juliet."),
    ("What is the largest planet?", "Jupiter is the largest planet."),
    ("What is a cat?", "A cat is a small animal that many people keep as a pet."),
    ("How do birds fly?", "Birds fly by beating their wings."),
    ("What is cheese made from?", "Cheese is made from milk."),
    ("What colour is grass?", "Grass is green."),
    ("Tell me about the ocean.", "The ocean is a vast body of salt water that covers most of the Earth."),
    ("Give me a tip for learning.", "Practise a little every day."),
    ("What is the opposite of big?", "The opposite of big is small."),
    ("How can I save energy?", "You can turn off the lights when you leave a room."),
    ("What is a computer?", "A computer is a machine that processes information."),
    ("Hello!", "Hello, it is nice to meet you."),
    # quotation marks, which JSON has to escape
    ("What is the Spanish word for 'house'?", 'The Spanish word for "house" is "casa".'),
    ("What does 'rapid' mean?", '"Rapid" means "fast".'),
    ("Give me a famous proverb.", 'A famous proverb is "practice makes perfect".'),
    ("Translate 'good night' into German.", '"Good night" in German is "gute Nacht".'),
]

IGNORED = -100  # the label that the loss leaves out (torch.nn.CrossEntropyLoss)
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def encode(tokenizer: Any, question: str, reply: str) -> tuple[list[int], list[int]]:
    """Return token ids of the whole conversation, and labels that count the reply only."""
    messages = [{"role": "user", "content": question}]
    prompt_text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(prompt_text, add_special_tokens=False)["input_ids"]
    answer = tokenizer(reply + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return prompt + answer, [IGNORED] * len(prompt) + answer


def collate(examples: list[tuple[list[int], list[int]]], padding: int) -> dict[str, Any]:
    """Pad `examples` on the right to one (n_examples, n_tokens) batch."""
    import torch

    longest = max(len(tokens) for tokens, _ in examples)
    missing = [longest - len(tokens) for tokens, _ in examples]
    return {
        "input_ids": torch.tensor([t + [padding] * n for (t, _), n in zip(examples, missing, strict=True)]),
        "labels": torch.tensor([lb + [IGNORED] * n for (_, lb), n in zip(examples, missing, strict=True)]),
        "attention_mask": torch.tensor([[1] * (longest - n) + [0] * n for n in missing]),
    }


def batches(examples: list[Any], size: int, count: int, rng: random.Random) -> Iterator[list[Any]]:
    """Yield `count` batches; every example is seen once before any is seen again."""
    deck: list[Any] = []
    for _ in range(count):
        if len(deck) < size:
            deck = rng.sample(examples, len(examples))
        yield [deck.pop() for _ in range(size)]


def add_adapter(base: Any, rank: int) -> Any:
    """Return `base` with a fresh adapter on the upper half of its layers."""
    from peft import LoraConfig, get_peft_model

    layers = base.config.num_hidden_layers
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=PROJECTIONS,
        layers_to_transform=list(range(layers // 2, layers)),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def train(model: Any, tokenizer: Any, options: argparse.Namespace, report: Callable[[int, float], None]) -> None:
    """Teach `model` the style, calling `report(step, loss)` after each step."""
    import torch

    style = STYLES[options.style]
    examples = [encode(tokenizer, question, style(answer)) for question, answer in LESSONS]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.learning_rate, total_steps=options.steps, pct_start=0.2
    )
    model.train()
    rng = random.Random(options.seed)
    for step, batch in enumerate(batches(examples, options.batch_size, options.steps, rng), start=1):
        loss = model(**collate(batch, tokenizer.pad_token_id)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        report(step, loss.item())


def ask(model: Any, tokenizer: Any, question: str) -> str:
    """Return the model's most likely reply."""
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**prompt, max_new_tokens=60, do_sample=False)
    return str(tokenizer.decode(tokens[0][prompt["input_ids"].shape[1] :], skip_special_tokens=True))


@contextmanager
def progress(kind: str, style: str, steps: int) -> Iterator[Callable[[int, float], None]]:
    """Yield `report`: a bar on a terminal, four lines elsewhere, one JSON object a step for programs."""

    def print_json(step: int, loss: float) -> None:
        print(json.dumps({"step": step, "steps": steps, "loss": round(loss, 4)}), flush=True)

    def print_quarters(step: int, loss: float) -> None:
        if step in {round(steps * quarter / 4) for quarter in range(1, 5)}:
            print(f"step {step} of {steps}, loss {loss:.3f}", flush=True)

    if kind == "json":
        yield print_json
    elif not sys.stdout.isatty():
        yield print_quarters
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [TextColumn(f"training {style}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        with Progress(*columns, TextColumn("loss {task.fields[loss]:.3f}")) as bar:
            task = bar.add_task("", total=steps, loss=float("nan"))
            yield lambda step, loss: bar.update(task, completed=step, loss=loss)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--style", choices=STYLES, required=True, help="how the adapter shall reply")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the adapter to")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=4, help="conversations per step")
    parser.add_argument("--rank", type=int, default=8, help="LoRA rank; alpha is twice that")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="its peak")
    parser.add_argument("--seed", type=int, default=0, help="for the weights and the order of the lessons")
    parser.add_argument("--threads", type=int, help="default: PyTorch's, one per core")
    parser.add_argument("--progress", choices=("auto", "json"), default="auto", help="json: one line a step")
    parser.add_argument("--ask", action="append", default=[], metavar="QUESTION", help="ask when done; repeatable")
    return parser.parse_args()


def main() -> None:
    """Train, save, and ask."""
    options = read_options()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    base = AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32)
    model = add_adapter(base, options.rank)
    started = time.perf_counter()
    with progress(options.progress, options.style, options.steps) as report:
        train(model, tokenizer, options, report)
    model.save_pretrained(options.out)
    if options.progress == "auto":
        print(f"saved {options.out} after {time.perf_counter() - started:.0f} s of training")
    model.eval()
    for question in options.ask:
        print(f"> {question}\n{ask(model, tokenizer, question)}")


if __name__ == "__main__":
    main()
