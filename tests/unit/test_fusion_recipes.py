"""Recipes: how they are written, completed and refused, before any tensor is read."""

from dataclasses import replace

import pytest

from adapters.recipe import CannotFuse, Method, Parent, Recipe, complete, parse_parents

BOTH = (Parent(version="legal", weight=0.7), Parent(version="support", weight=0.3))


def refusal(recipe: Recipe) -> CannotFuse:
    with pytest.raises(CannotFuse) as caught:
        complete(recipe)
    assert caught.value.remedy
    return caught.value


def test_parents_are_written_as_name_and_weight() -> None:
    assert parse_parents(["legal=0.7", "support@3f2a9c=-.3", "plain", "tiny=1e-3"]) == (
        Parent(version="legal", weight=0.7),
        Parent(version="support@3f2a9c", weight=-0.3),
        Parent(version="plain", weight=1.0),
        Parent(version="tiny", weight=0.001),
    )


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("legal=", "bad_weight"),
        ("legal=much", "bad_weight"),
        ("legal=nan", "bad_weight"),
        ("legal=inf", "bad_weight"),
        ("legal=0.5=0.5", "bad_weight"),
        ("legal=1_0", "bad_weight"),
        ("=0.5", "bad_parent"),
        ("", "bad_parent"),
        ("le gal=0.5", "bad_parent"),
        ("legal@xyz=0.5", "bad_parent"),
        ("legal@3f=0.5", "bad_parent"),
        ("../legal=0.5", "bad_parent"),
    ],
)
def test_a_word_that_is_no_parent_is_refused_by_name(word: str, code: str) -> None:
    with pytest.raises(CannotFuse) as caught:
        parse_parents(["support=1", word])
    assert caught.value.code == code
    assert f"`{word}`" in str(caught.value)
    assert caught.value.remedy


def test_a_complete_recipe_has_what_its_method_needs_and_no_more() -> None:
    for method in Method:
        parents = BOTH[:1] if method is Method.SCALE else BOTH
        made = complete(Recipe(method=method, parents=parents))
        assert (made.density is not None) == (method.value in {"ties", "dare_ties", "dare_linear", "magnitude_prune"})
        assert (made.seed is not None) == (method.value in {"dare_ties", "dare_linear"})
        assert complete(made) == made


def test_what_is_given_is_kept() -> None:
    recipe = Recipe(method=Method.DARE_TIES, parents=BOTH, density=0.25, seed=9)
    assert complete(recipe) == recipe


@pytest.mark.parametrize(
    ("recipe", "code", "named"),
    [
        (Recipe(method=Method.CAT, parents=()), "parents", "not 0"),
        (Recipe(method=Method.SCALE, parents=BOTH), "parents", "not 2"),
        (Recipe(method=Method.SLERP, parents=BOTH[:1]), "parents", "not 1"),
        (
            Recipe(method=Method.CAT, parents=tuple(Parent(version=f"v{n}", weight=1) for n in range(9))),
            "parents",
            "not 9",
        ),
        (Recipe(method=Method.CAT, parents=(BOTH[0], BOTH[0])), "parent_twice", "`legal`"),
        (Recipe(method=Method.CAT, parents=(replace(BOTH[0], weight=float("nan")),)), "bad_weight", "`nan`"),
        (Recipe(method=Method.SLERP, parents=(BOTH[0], replace(BOTH[1], weight=-1.0))), "slerp_weights", "`-1`"),
        (
            Recipe(method=Method.SLERP, parents=tuple(replace(parent, weight=0.0) for parent in BOTH)),
            "slerp_weights",
            "`0`",
        ),
        (Recipe(method=Method.CAT, parents=BOTH, rank=4), "setting_unused", "`4`"),
        (Recipe(method=Method.SVD, parents=BOTH, density=0.5), "setting_unused", "`0.5`"),
        (Recipe(method=Method.TIES, parents=BOTH, seed=3), "setting_unused", "`3`"),
        (Recipe(method=Method.SVD, parents=BOTH, rank=0), "bad_rank", "`0`"),
        (Recipe(method=Method.TIES, parents=BOTH, density=0.0), "bad_density", "`0.0`"),
        (Recipe(method=Method.TIES, parents=BOTH, density=1.01), "bad_density", "`1.01`"),
        (Recipe(method=Method.TIES, parents=BOTH, density=float("nan")), "bad_density", "`nan`"),
        (Recipe(method=Method.DARE_TIES, parents=BOTH, seed=-1), "bad_seed", "`-1`"),
    ],
)
def test_a_recipe_that_cannot_be_made_is_refused_with_the_value(recipe: Recipe, code: str, named: str) -> None:
    found = refusal(recipe)
    assert found.code == code
    assert named in str(found)


def test_only_a_recipe_of_zeros_is_null() -> None:
    assert Recipe(method=Method.SCALE, parents=(Parent(version="legal", weight=0.0),)).is_null
    assert not Recipe(method=Method.CAT, parents=BOTH).is_null
