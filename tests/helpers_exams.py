"""Three exams that take no time to make, for profiles of the tests' own."""

from smf_lib.study.exams import register_exam
from smf_lib.study.tasks.exam import ExamQuestion, make_exam


def numbered(word):
    @register_exam(word)
    def build(settings, root):
        found = [
            ExamQuestion(f"{word}-{n}", f"What is {n} {word} 2?", [str(n), str(n + 5)], n % 2)
            for n in range(40)
        ]
        rest = found[settings.test_rows :][: settings.train_rows]
        return make_exam(word, rest, [], found[: settings.test_rows])


numbered("plus")
numbered("times")
numbered("power")
