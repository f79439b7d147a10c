"""Questions with their haystacks in the form of LongMemEval, written here."""

from typing import Any

HAYSTACKS: list[dict[str, Any]] = [
    {
        "question_id": "q1",
        "question_type": "single-session-user",
        "question": "What is my parrot called?",
        "answer": "Flint",
        "question_date": "2023/06/01 (Thu) 09:30",
        "haystack_session_ids": ["later", "earlier"],
        "haystack_dates": ["2023/05/21 (Sun) 10:00", "2023/05/20 (Sat) 02:21"],
        "haystack_sessions": [
            [
                {"role": "user", "content": "It rains."},
                {"role": "assistant", "content": "  "},
                {"role": "assistant", "content": "Take an umbrella."},
            ],
            [
                {"role": "user", "content": "My parrot Flint can whistle. ", "has_answer": True},
                {"role": "assistant", "content": "Lovely!", "has_answer": False},
            ],
        ],
        "answer_session_ids": ["earlier"],
    },
    {
        "question_id": "q2_abs",
        "question_type": "multi-session",
        "question": "How many hamsters do I have?",
        "answer": "You never spoke of hamsters.",
        "question_date": "2023/06/01 (Thu) 09:30",
        "haystack_session_ids": ["one"],
        "haystack_dates": ["2023/05/20 (Sat) 02:21"],
        "haystack_sessions": [[{"role": "user", "content": "I am home.", "has_answer": True}]],
        "answer_session_ids": ["one"],
    },
    {
        "question_id": "q3",
        "question_type": "temporal-reasoning",
        "question": "How many days?",
        "answer": 3,
        "question_date": "2023/06/01 (Thu) 09:30",
        "haystack_session_ids": [],
        "haystack_dates": [],
        "haystack_sessions": [],
        "answer_session_ids": [],
    },
]
