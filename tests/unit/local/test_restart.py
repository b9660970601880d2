from hypothesis import given
from hypothesis import strategies as st

from mesh.local.restart import RestartPolicy, decide_restart

POLICY = RestartPolicy(first_s=0.5, max_s=15.0, steady_after_s=20.0, loop_after=4)


def test_short_lives_double_the_wait_until_its_bound() -> None:
    delays = []
    lives = 0
    for _ in range(8):
        restart = decide_restart(POLICY, lives, uptime_s=1.0)
        lives = restart.short_lives
        delays.append(restart.delay_s)
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]


def test_the_fourth_short_life_in_a_row_is_a_crash_loop() -> None:
    assert not decide_restart(POLICY, 2, uptime_s=1.0).is_loop
    assert decide_restart(POLICY, 3, uptime_s=1.0).is_loop


def test_a_long_life_forgives_the_short_ones() -> None:
    restart = decide_restart(POLICY, 7, uptime_s=20.0)
    assert (restart.delay_s, restart.short_lives, restart.is_loop) == (0.5, 1, False)


@given(st.integers(0, 10**6), st.floats(0, 1e9))
def test_the_wait_stays_within_its_bounds(lives: int, uptime_s: float) -> None:
    assert POLICY.first_s <= decide_restart(POLICY, lives, uptime_s).delay_s <= POLICY.max_s
