"""Named random streams."""

import torch

from ssl_pose.seeding import make_generator, stream_seed


def draw(*stream) -> list[float]:
    return torch.rand(4, generator=make_generator(*stream)).tolist()


def test_the_same_name_gives_the_same_stream_and_any_other_name_another():
    assert draw(0, "weak", 3) == draw(0, "weak", 3)
    others = [(1, "weak", 3), (0, "weak", 4), (0, "strong", 3), (0, "weak")]
    assert all(draw(0, "weak", 3) != draw(*other) for other in others)


def test_stream_seeds_are_the_same_on_every_machine():
    assert stream_seed(0, "weak", 3) == 1728923255456222706  # sha256 of "0/weak/3", first 8 bytes, halved
    assert 0 <= stream_seed(7) < 2**63


def test_streams_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    draw(5, "anything")
    assert torch.equal(torch.rand(1), expected)
