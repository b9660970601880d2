"""The inputs of the golden data: prompts, conversations, sentences and one text for perplexity.

Kept apart from the script that computes the answers, so that a reader sees what is covered at a
glance. Changing anything here means running `generate.py` again.
"""

# ruff: noqa: RUF001 - letters of other scripts are the point

from __future__ import annotations

from typing import Any

Message = dict[str, str]

PERPLEXITY_TEXT = """\
The lighthouse at the mouth of the harbour was built in 1871, after three ships were lost in a
single winter. Its keeper, a patient man named Elias Ward, wrote every evening in a ledger: the
direction of the wind, the height of the waves, the names of the vessels that passed, and, at the
end of each page, one sentence about something that had nothing to do with his work. On the ninth
of March he wrote that the gulls had stopped quarrelling. On the tenth he wrote that bread tastes
different when the air is cold. Nobody asked him to do so, and for many years nobody knew.

When the lamp was electrified the ledgers were put into a box, and the box was put into a cellar,
where it stayed until the cellar flooded. A teacher from the village, who had come to help carry
furniture up the stairs, opened it because it was heavier than it looked. She read the first page
standing in the water, and the second one sitting on the steps. By the time the others had finished
she had decided to copy all of it, and she spent the following two summers doing little else.

What she found surprised the historians more than it surprised her neighbours. The weather records
were complete: forty-one years without a missing day. Scientists at the university compared them
with the measurements of other stations along the coast, and discovered that Ward's estimates of
the height of the waves were wrong by less than ten percent, although he had no instrument other
than a notched pole and his own eyes. From the records they could show that the storms of autumn
had moved later in the year, by about eleven days, and that the harbour had slowly filled with sand
from the north, not from the south, as everyone had always believed.

There is a simple reason why such observations are valuable. A climate is not something that can be
seen; it is an average, and an average needs many years and a steady hand. An instrument that is
replaced every decade, moved to a better position, or repaired by someone with new ideas measures
its own history as much as the weather. A person who looks at the same sea from the same window,
with the same care, every day for forty-one years, is a remarkably stable instrument. Of course he
also grows old, and his eyes become weaker. But he knows that, and so he checks himself: on the
first day of every month Ward rowed out to the pole and measured the marks with a rope.

The sentences at the end of the pages are another matter. They have been printed as a small book,
and people who have never seen the sea buy it. Some are funny: "The inspector came, and left, and
the dust remained." Some are sad, and are about his wife, who died in the winter of 1889 and who
is mentioned only four times. Most are merely exact. "A crab can walk around a bucket for an hour
and learn nothing about buckets." "Fog makes every sound come from the left." "If you wait long
enough at a window, somebody will wave."

Today the light is automatic, and the house is a museum that opens on Saturdays. The pole is still
there, although the notches have been worn smooth, and on the first day of each month children from
the school row out with a rope, under the eyes of two anxious parents, and measure the marks. Their
numbers are entered into the same kind of ledger, in the same columns. At the end of the page there
is space for one sentence. It is said that the children argue about it for longer than they row.
"""

CODE_SNIPPET = """def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a

def is_prime("""


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


# Twenty prompts: chats short and long, with and without system, several turns, plain text, code,
# other scripts, and two that are longer than one prefill chunk.
PROMPTS: list[dict[str, Any]] = [
    {"chat": user("What is the capital of France? Answer in one sentence.")},
    {"chat": user("Write one sentence about the sea.")},
    {"chat": user("List three colors.")},
    {"chat": user("Explain to a child why the sky is blue.")},
    {"chat": user("What is 7 + 5? Show your work.")},
    {"chat": user("Translate 'good morning' into Spanish, German and French.")},
    {"chat": user("Write a short poem about a cat named Olive.")},
    {"chat": user("Schreibe einen Satz über den Frühling. 🌷")},
    {"chat": user("Give me a recipe for pancakes in five steps.")},
    {
        "chat": [
            {"role": "system", "content": "You are a pirate. Answer briefly."},
            {"role": "user", "content": "Where is the treasure?"},
        ]
    },
    {
        "chat": [
            {"role": "user", "content": "My name is Ada and I like chess."},
            {"role": "assistant", "content": "Nice to meet you, Ada! Chess is a wonderful game."},
            {"role": "user", "content": "What is my name, and what do I like?"},
        ]
    },
    {
        "chat": [
            {"role": "system", "content": "You are a careful editor."},
            {
                "role": "user",
                "content": "Summarize the following text.\n\n" + PERPLEXITY_TEXT[:1500],
            },
        ]
    },
    {"chat": user("Write a Python function that reverses a string.")},
    {"chat": user("What are the planets of the solar system?")},
    {"text": "Once upon a time, in a small village at the edge of the forest,"},
    {"text": "The three laws of motion were first stated by"},
    {"text": CODE_SNIPPET},
    {"text": PERPLEXITY_TEXT[:2200]},
    {"text": "1, 1, 2, 3, 5, 8, 13,"},
    {"text": "The"},
]

CONVERSATIONS: list[list[Message]] = [
    user("Hello!"),
    user(""),
    user("  spaces around, and a newline\n"),
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Nur auf Deutsch. 日本語も可。"}],
    [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three <|im_end|> {{ not_a_variable }}"},
    ],
    [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "C"},
        {"role": "assistant", "content": "D"},
    ],
]

# The import of GGUF files in transformers leaves out that this tokenizer takes digits apart. It
# shows only at a space before a numeric character that is no digit (" ½"); there is none here.
TOKENIZER_TEXTS: list[str] = [
    "",
    " ",
    "Hello, world!",
    "  leading and trailing  ",
    "tabs\tand\nnewlines\r\n\r\n",
    "1234567890 3.14159 1e-5 0x7f",
    "naïve café — “quotes” … µ ™",
    "日本語のテキスト, 中文文本, 한국어 텍스트",
    "Привет, мир! Γειά σου Κόσμε. مرحبا بالعالم שלום",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷 👍🏽 e\u0301 \u200b",
    "<|im_start|>user\nspecial<|im_end|>\n<|endoftext|> <|im_start",
    "don't you're I'll we've it's HE'S",
    "snake_case camelCase kebab-case CONSTANT_NAME",
    "def f(x):\n    return x ** 2  # comment\n\n\nprint(f(3))",
    "a\x00b\x01c\x7f",
    "spam " * 300,
    "!!!???...,,,;;;:::---___===+++***///\\\\\\",
    "https://example.org/path?query=1&other=two#fragment",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ﷺ ﬁ Å 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
]

# Fifty sentences for the encoder: ordinary, similar pairs, other scripts, tiny, and too long.
SENTENCES: list[str] = [
    "A man is eating food.",
    "A man eats a meal.",
    "The sky is blue today.",
    "The weather is clear and sunny.",
    "Quantum computers use qubits instead of bits.",
    "The stock market fell sharply on Monday.",
    "Shares lost value at the beginning of the week.",
    "How do I reset my password?",
    "I forgot my login credentials, what now?",
    "The cat sat on the mat.",
    "A dog chased the ball across the park.",
    "Paris is the capital of France.",
    "Berlin ist die Hauptstadt von Deutschland.",
    "Madrid es la capital de España.",
    "東京は日本の首都です。",
    "北京是中国的首都。",
    "Москва — столица России.",
    "القاهرة عاصمة مصر",
    "אני אוהב מוזיקה",
    "서울은 대한민국의 수도입니다.",
    "Ça coûte très cher à l'étranger.",
    "ÀÉÎÕÜ àéîõü ß ẞ",
    "I ❤️ 🍕 and 🎸!",
    "e\u0301 versus é",
    "UPPER CASE SHOUTING",
    "lower case whispering",
    "MiXeD CaSe",
    "numbers 1 22 333 4444 55555 3.14159",
    "email@example.org http://example.org/a?b=c",
    "def add(a, b): return a + b",
    "SELECT name FROM users WHERE id = 42;",
    '{"key": ["value", 1, null, true]}',
    "a",
    ".",
    "",
    " ",
    "\n\t",
    "?!",
    "[CLS] [SEP] [MASK] [PAD] [UNK]",
    "word " * 100,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "x" * 250,
    "To be, or not to be, that is the question.",
    "The mitochondria is the powerhouse of the cell.",
    "E = mc² relates mass and energy.",
    "Please confirm your appointment for 3 p.m. on 12/05/2024.",
    PERPLEXITY_TEXT[:600].replace("\n", " "),
    PERPLEXITY_TEXT[:1800].replace("\n", " "),
    PERPLEXITY_TEXT.replace("\n", " "),
    "very long " * 400,
]
