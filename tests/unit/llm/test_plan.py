"""The step planner, alone and driven through random lives of many sequences."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.llm.plan import SMALLEST_COPY, plan
from services.inference.llm.step import (
    Admit,
    Exchange,
    Keep,
    Phase,
    Preempt,
    Prefill,
    Slot,
    State,
    Step,
    Waiting,
)


def prompt(length: int, first: int = 0) -> tuple[int, ...]:
    return tuple(range(first, first + length))


def state(slots: list[Slot], *waiting: tuple[int, ...], chunk: int = 128) -> State:
    queue = tuple(Waiting(100 + i, tokens) for i, tokens in enumerate(waiting))
    return State(tuple(slots), queue, chunk, step=9)


def running(sequence: int, tokens: tuple[int, ...], held: int | None = None) -> Slot:
    return Slot(Phase.DECODE, sequence, tokens, len(tokens) + 3 if held is None else held)


def warm(tokens: tuple[int, ...], last_used: int = 0) -> Slot:
    return Slot(prompt=tokens, held=len(tokens), last_used=last_used)


def admission(step: Step) -> Admit:
    return next(action for action in step.actions if isinstance(action, Admit))


def test_nothing_to_do_is_idle() -> None:
    assert plan(state([Slot()] * 4)).is_idle


def test_a_short_prompt_is_admitted_and_prefilled_in_one_step() -> None:
    step = plan(state([Slot()] * 2, prompt(20)))
    assert step.actions == (
        Admit(100, 0, reused=0, source=0, copied=0),
        Prefill(0, 0, 20, is_last=True),
    )
    assert step.decode == ()
    assert step.slots[0].phase is Phase.DECODE


def test_a_long_prompt_takes_a_chunk_per_step_while_others_decode() -> None:
    slots = [running(1, prompt(5)), Slot()]
    step = plan(state(slots, prompt(300), chunk=128))
    assert step.actions[-1] == Prefill(1, 0, 128, is_last=False)
    assert step.decode == (0,)
    step = plan(State(step.slots, (), 128, 10))
    assert step.actions == (Prefill(1, 128, 256, is_last=False),)
    assert step.decode == (0,)


def test_short_prompts_share_a_chunk_and_a_long_one_waits() -> None:
    step = plan(state([Slot()] * 4, prompt(50), prompt(60, 500), prompt(70, 900)))
    chunks = [(a.slot, a.end) for a in step.actions if isinstance(a, Prefill)]
    assert chunks == [(0, 50), (1, 60)]


def reading(sequence: int, tokens: tuple[int, ...], held: int) -> Slot:
    return Slot(Phase.PREFILL, sequence, tokens, held)


def test_a_short_prompt_passes_a_long_one_that_is_being_read() -> None:
    slots = [reading(1, prompt(900), 256), Slot(), Slot()]
    step = plan(state(slots, prompt(500, 2000), prompt(50, 3000), prompt(20, 4000), chunk=128))
    assert step.actions == (
        Admit(101, 1, reused=0, source=1, copied=0),
        Prefill(1, 0, 50, is_last=True),
        Prefill(0, 256, 334, is_last=False),
    )


def test_who_is_passed_keeps_a_slot() -> None:
    slots = [reading(1, prompt(900), 256), Slot()]
    step = plan(state(slots, prompt(500, 2000), prompt(50, 3000), chunk=128))
    assert step.actions == (Prefill(0, 256, 384, is_last=False),)


def test_what_passes_leaves_half_of_a_chunk_and_at_least_two_tokens() -> None:
    slots = [reading(1, prompt(9), 6), Slot()]
    step = plan(state(slots, prompt(2, 50), chunk=4))
    assert step.actions[-1] == Prefill(0, 6, 9, is_last=True)
    step = plan(state([reading(1, prompt(900), 0), Slot()], prompt(65, 2000), chunk=128))
    assert step.actions == (Prefill(0, 0, 128, is_last=False),)


def test_no_chunk_leaves_a_single_token() -> None:
    step = plan(state([Slot()], prompt(129), chunk=128))
    assert step.actions[-1] == Prefill(0, 0, 127, is_last=False)


def test_a_running_sequence_moves_down_into_a_hole() -> None:
    slots = [running(1, prompt(5)), Slot(), running(3, prompt(9), held=12)]
    step = plan(state(slots))
    assert step.actions == (Exchange(low=1, high=2, held=12, kept=0),)
    assert step.decode == (0, 1)
    assert step.slots[2] == Slot()


def test_what_a_hole_still_holds_moves_up() -> None:
    slots = [warm(prompt(40)), running(3, prompt(9, 70), held=12)]
    step = plan(state(slots))
    assert step.actions == (Exchange(low=0, high=1, held=12, kept=40),)
    assert step.slots[1] == slots[0]


def test_a_prompt_goes_on_in_the_slot_that_it_continues() -> None:
    slots = [Slot(), warm(prompt(80), last_used=1), warm(prompt(90, 500), last_used=8)]
    step = plan(state(slots, prompt(100)))
    assert admission(step) == Admit(100, 1, reused=80, source=1, copied=0)
    assert step.actions[-1] == Prefill(1, 80, 100, is_last=True)


def test_the_same_prompt_again_leaves_two_tokens_to_run() -> None:
    step = plan(state([warm(prompt(80))], prompt(80)))
    assert admission(step).reused == 78


def test_a_shared_beginning_is_copied_from_a_running_sequence() -> None:
    shared = prompt(SMALLEST_COPY)
    slots = [running(1, shared + prompt(9, 700)), Slot()]
    step = plan(state(slots, shared + prompt(30, 300)))
    assert admission(step) == Admit(100, 1, SMALLEST_COPY, source=0, copied=SMALLEST_COPY)


def test_a_long_conversation_is_not_given_up_for_a_short_shared_beginning() -> None:
    shared = prompt(20)
    slots = [warm(shared + prompt(400, 500)), Slot()]
    step = plan(state(slots, shared + prompt(30, 2000)))
    assert admission(step) == Admit(100, 0, reused=20, source=0, copied=0)
    assert step.slots[1] == slots[0]


def test_cold_slots_are_given_up_first_then_the_longest_unused() -> None:
    older, newer = warm(prompt(19, 100), 3), warm(prompt(19, 200), 5)
    step = plan(state([newer, older, Slot()], prompt(8)))
    assert step.slots[1:] == (older, newer)
    step = plan(state([newer, older], prompt(8)))
    assert step.slots[1] == newer


def test_a_newcomer_gets_the_lowest_free_slot_and_what_that_held_is_kept() -> None:
    slots = [running(1, prompt(5)), warm(prompt(19, 100), 5), warm(prompt(7, 200), 3)]
    step = plan(state(slots, prompt(8)))
    assert step.actions == (
        Keep(source=1, target=2, tokens=19),
        Admit(100, 1, reused=0, source=1, copied=0),
        Prefill(1, 0, 8, is_last=True),
    )
    assert step.slots[2] == slots[1]


def test_a_short_prompt_in_the_lowest_free_slot_is_not_worth_keeping() -> None:
    slots = [warm(prompt(9, 100), 5), warm(prompt(30, 200), 3)]
    step = plan(state(slots, prompt(8)))
    assert step.actions[0] == Admit(100, 0, reused=0, source=0, copied=0)
    assert step.slots[1] == slots[1]


def test_a_newcomer_goes_on_from_what_the_lowest_free_slot_holds() -> None:
    shared = prompt(SMALLEST_COPY)
    slots = [warm(shared + prompt(30, 100), 5), warm(prompt(7, 200), 3)]
    step = plan(state(slots, shared + prompt(8, 300)))
    assert step.actions[:2] == (
        Keep(source=0, target=1, tokens=46),
        Admit(100, 0, reused=SMALLEST_COPY, source=0, copied=0),
    )


def test_the_lowest_free_slot_gets_a_shared_beginning_from_elsewhere() -> None:
    shared = prompt(SMALLEST_COPY)
    slots = [running(1, shared), warm(prompt(19, 100), 5), Slot()]
    step = plan(state(slots, shared + prompt(8, 300)))
    assert step.actions[:2] == (
        Keep(source=1, target=2, tokens=19),
        Admit(100, 1, reused=SMALLEST_COPY, source=0, copied=SMALLEST_COPY),
    )


def test_what_decode_wrote_is_not_reused() -> None:
    slot = running(1, prompt(30), held=50).released(step=4)
    assert slot == Slot(prompt=prompt(30), held=30, last_used=4)
    assert running(1, prompt(1), held=9).released(step=4).reusable == 0


def urgent(sequence: int, tokens: tuple[int, ...], priority: int) -> Slot:
    return replace(running(sequence, tokens), priority=priority, may_yield=True)


def test_an_urgent_request_takes_the_slot_of_the_least_urgent_answer_that_loses_least() -> None:
    slots = [urgent(1, prompt(9), 1), urgent(2, prompt(30), 2), urgent(3, prompt(8), 2)]
    waiting = Waiting(100, prompt(5, 500), priority=1)
    step = plan(State(tuple(slots), (waiting,), 128, step=9))
    assert step.actions[:2] == (Preempt(3, 2), Admit(100, 2, reused=0, source=2, copied=0))
    assert step.decode == (0, 1)
    assert (step.slots[2].priority, step.slots[2].may_yield) == (1, True)


def test_nobody_gives_way_to_an_equal_or_twice_or_while_there_is_room() -> None:
    def preempts(waiting: Waiting, *slots: Slot) -> bool:
        step = plan(State(slots, (waiting,), 128, step=9))
        return any(isinstance(action, Preempt) for action in step.actions)

    equal, more = Waiting(9, prompt(5), priority=2), Waiting(9, prompt(5), priority=1)
    busy = urgent(1, prompt(9), 2)
    assert preempts(more, busy)
    assert not preempts(equal, busy)
    assert not preempts(more, replace(busy, may_yield=False))
    assert not preempts(more, busy, Slot())


# A whole life: sequences arrive, run for a while, leave or are cancelled.

arrival = st.tuples(
    st.integers(0, 6),  # steps until it arrives
    st.integers(1, 60),  # own prompt length
    st.integers(0, 40),  # of which this much is the shared beginning
    st.integers(1, 12),  # tokens to generate
    st.booleans(),  # cancelled half-way
    st.integers(0, 2),  # priority
)


class Life:
    """Carries steps out on a model of the slots: each position holds the token written there."""

    def __init__(self, size: int, chunk: int) -> None:
        self.slots = (Slot(),) * size
        self.memory: list[dict[int, int]] = [{} for _ in range(size)]
        self.chunk = chunk
        self.queue: list[Waiting] = []
        self.left: dict[int, int] = {}
        self.made: dict[int, int] = {}
        self.order: list[int] = []
        self.passed: set[int] = set()
        self.preempted: list[int] = []
        self.steps = 0

    def step(self) -> Step:
        self.steps += 1
        before = self.slots
        self.queue.sort(key=lambda waiting: (waiting.priority, waiting.sequence))
        step = plan(State(self.slots, tuple(self.queue), self.chunk, self.steps))
        self.slots = step.slots
        spent = 0
        for action in step.actions:
            match action:
                case Exchange(low, high, held, kept):
                    down = {p: self.memory[high][p] for p in range(held)}
                    up = {p: self.memory[low][p] for p in range(kept)}
                    self.memory[low], self.memory[high] = down, up
                case Keep(source, target, tokens):
                    self.memory[target] = {p: self.memory[source][p] for p in range(tokens)}
                case Preempt(sequence, slot):
                    assert all(each.phase is Phase.DECODE for each in before)
                    assert before[slot].sequence == sequence
                    assert before[slot].priority > self.queue[0].priority
                    self.preempt(before[slot], sequence)
                case Admit(sequence, slot, reused, source, copied):
                    self.admit(sequence, before)
                    # Nobody's slot, except as the exchanges of this step have moved it.
                    assert self.slots[slot].sequence == sequence
                    if copied:
                        assert copied == reused
                        self.memory[slot] = {p: self.memory[source][p] for p in range(copied)}
                case Prefill(slot, start, end, is_last):
                    tokens = self.slots[slot].prompt
                    assert end - start >= 2 or len(tokens) == 1
                    assert is_last == (end == len(tokens))
                    assert all(self.memory[slot][p] == tokens[p] for p in range(start))
                    self.memory[slot] |= {p: tokens[p] for p in range(start, end)}
                    spent += end - start
        assert spent <= max(self.chunk, 3)
        preempted = sum(isinstance(action, Preempt) for action in step.actions)
        assert sum(slot.phase is Phase.DECODE for slot in before) == len(step.decode) + preempted
        self._decode(step)
        return step

    def _decode(self, step: Step) -> None:
        for row in range(step.rows):
            slot = self.slots[row]
            # A row that only fills the gap writes behind what its slot holds, never into it.
            assert slot.phase is not Phase.FREE
            self.memory[row][slot.held] = -1
        for row in step.decode:
            self._advance(row)

    def _advance(self, row: int) -> None:
        slot = replace(self.slots[row], held=self.slots[row].held + 1)
        assert slot.sequence is not None
        self.left[slot.sequence] -= 1
        self.made[slot.sequence] = self.made.get(slot.sequence, 0) + 1
        done = self.left[slot.sequence] <= 0
        self.replace(row, slot.released(self.steps) if done else slot)

    def replace(self, row: int, slot: Slot) -> None:
        self.slots = (*self.slots[:row], slot, *self.slots[row + 1 :])

    def admit(self, sequence: int, before: tuple[Slot, ...]) -> None:
        place = [waiting.sequence for waiting in self.queue].index(sequence)
        if place > 0:
            self.passed.add(sequence)
            assert any(slot.phase is Phase.PREFILL for slot in before)
            assert sum(slot.phase is Phase.FREE for slot in self.slots) >= place
        del self.queue[place]
        self.order.append(sequence)

    def preempt(self, slot: Slot, sequence: int) -> None:
        """Back into the queue, behind its first: what it has made has to be made again."""
        assert sequence not in self.preempted
        self.preempted.append(sequence)
        self.left[sequence] += self.made.pop(sequence, 0)
        again = Waiting(sequence, slot.prompt, slot.priority, may_yield=False)
        self.queue.append(again)

    def cancel(self, sequence: int) -> None:
        self.queue = [waiting for waiting in self.queue if waiting.sequence != sequence]
        for row, slot in enumerate(self.slots):
            if slot.sequence == sequence:
                self.replace(row, slot.released(self.steps))


@settings(deadline=None)
@given(st.lists(arrival, min_size=1, max_size=14), st.integers(1, 5), st.integers(1, 40))
def test_lives_of_sequences(
    arrivals: list[tuple[int, int, int, int, bool, int]], size: int, chunk: int
) -> None:
    life = Life(size, chunk)
    cancelled: dict[int, int] = {}
    for number, (gap, own, shared, tokens, is_cancelled, priority) in enumerate(arrivals):
        for _ in range(gap):
            life.step()
        tokens_in = prompt(shared) + prompt(own, 1000 * (number + 1))
        life.queue.append(Waiting(number, tokens_in, priority))
        life.left[number] = tokens
        if is_cancelled:
            cancelled[number] = life.steps + tokens // 2 + 1
        for late in [n for n, at in cancelled.items() if at <= life.steps]:
            life.cancel(late)
    for _ in range(3000):
        if life.step().is_idle:
            break
    # Everything ran to its end; equals first come first served.
    assert plan(State(life.slots, tuple(life.queue), chunk, 0)).is_idle
    assert life.queue == []
    for level in range(3):
        out_of_turn = life.passed.union(life.preempted)
        once = [n for n in life.order if arrivals[n][-1] == level and n not in out_of_turn]
        assert once == sorted(once)
    assert all(slot.phase is Phase.FREE for slot in life.slots)
    expected = [n for n in range(len(arrivals)) if n not in cancelled]
    assert all(life.left[n] == 0 for n in expected)
