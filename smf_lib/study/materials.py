"""What a study is made of: model, exam, probes and texts, found where the profile names them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self, TypeAlias, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from .embedded import find_model
from .exams import build_exam
from .files import KEPT, keep_json, kept_json, making
from .keys import own_text_key
from .model_check import check_model_folder
from .models import ModelFiles, load_model, load_tokenizer
from .profiles import Profile, RunSpec
from .settings import BackgroundSettings, RetrofitSettings
from .tasks import corpora, own_text, probes
from .tasks.exam import Exam, ExamQuestion
from .tasks.formats import FORMATS, Cloze, Lettered
from .tasks.hub import locate

LoadedModel: TypeAlias = tuple[nn.Module, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class Materials:
    """A profile and the folder its files go to; everything is loaded when it is first asked for.

    task, learned: of a run in a sequence, what it is trained on and the tasks before; draw: the
    seed of a run that has training rows of its own; see `at`.
    """

    STUDY: ClassVar[str] = "local"  # this machine's, beside recorded ones, in results/<profile>/

    profile: Profile
    root: Path
    task: str | None = None
    learned: tuple[str, ...] = ()
    draw: int | None = None

    def at(self, spec: RunSpec) -> Self:
        """This study with the exam that a run is trained on, and what that run learned before."""
        draw = spec.seed if self.profile.draws_rows else None
        return self._with(spec.settings.task, tuple(spec.settings.learned), draw)

    def _with(self, task: str | None, learned: tuple[str, ...], draw: int | None) -> Self:
        asked, own = (task, learned, draw), (self.task, self.learned, self.draw)
        if asked == own:
            return self
        views = self.__dict__.setdefault("views", {})
        if asked not in views:
            view = dataclasses.replace(self, task=task, learned=learned, draw=draw)
            view.__dict__["views"] = views | {own: self}
            if "model_files" in self.__dict__:  # found and summed up once
                view.__dict__["model_files"] = self.model_files
            views[asked] = view
        return views[asked]

    def of_task(self, task: str) -> Self:
        """This study with a task, by its name, as its exam."""
        return self._with(None if task == self.profile.exam.name else task, (), self.draw)

    def exam_of(self, task: str) -> Exam:
        """The questions of a task by its name."""
        return self.of_task(task).exam

    @property
    def work(self) -> Path:
        """Folder of what belongs to this profile alone and can be made again: notebooks, logs."""
        return self.root / "work" / self.profile.name

    @property
    def kept(self) -> Path:
        """Folder of what is kept under keys, for all profiles: trainings, measurements, texts."""
        return self.root / "work" / KEPT

    @property
    def results(self) -> Path:
        """Folder of the records of this profile, one subfolder a study."""
        return self.root / "results" / self.profile.name

    @cached_property
    def model_files(self) -> ModelFiles:
        """Where the base model is, as the profile names it."""
        named = self.profile.model
        found = find_model(named.model_copy(update={"source": locate(named.source, self.root)}))
        check_model_folder(found.path, named.source)
        # a record names the source as the profile does, without the folders of this machine
        return dataclasses.replace(found, source=named.source)

    @cached_property
    def exam(self) -> Exam:
        """The questions of the profile's exam; of a run's own task where this is `at` a run."""
        settings = self.profile.exam_of(self.task)
        if getattr(settings, "train_seed", None) == "run":
            settings = settings.model_copy(update={"train_seed": self.draw or 0})
        return build_exam(settings, self.root)

    @cached_property
    def prose(self) -> list:
        """What is measured on prose: sections of shipped articles, or lines of WikiText."""
        if self._wikitext is not None:
            return self._wikitext[0]
        return probes.sections(probes.load_prose(self.profile.probes.prose_articles))

    @cached_property
    def _wikitext(self) -> tuple[list[str], int] | None:
        """Lines of WikiText, if the profile names it, and how many rows hold no text."""
        settings = self.profile.probes.wikitext
        return None if settings is None else corpora.load_wikitext(settings, self.root)

    @cached_property
    def knowledge(self) -> tuple[list, list]:
        """Questions of the knowledge probe, and for each the examples that it is asked after."""
        settings = self.profile.probes
        if settings.triviaqa is not None:
            questions, shots = corpora.load_triviaqa(settings.triviaqa, self.root)
            return questions, [shots] * len(questions)
        questions = probes.load_knowledge(settings.knowledge_questions)
        return questions, probes.shown_before(questions, settings.knowledge_shots)

    def texts(
        self, field: str, settings: BackgroundSettings | RetrofitSettings | None = None
    ) -> list[str] | None:
        """Texts of the profile's `background` or `retrofit` settings; None if they name none.

        `settings`: those of a background other than the profile's.
        """
        found = self._texts(field, settings)
        return None if found is None else found[0]

    def _texts(
        self, field: str, settings: BackgroundSettings | RetrofitSettings | None
    ) -> tuple[list[str], int] | None:
        """`texts`, and how many of the rows that they are drawn from hold no text."""
        settings = settings or getattr(self.profile, field)
        if settings is None or settings.text is None:
            return None
        wanted, rows_field = settings.text, None
        if wanted.seed == "run":
            wanted = wanted.model_copy(update={"seed": self.draw or 0})
        if isinstance(settings, BackgroundSettings):
            wanted = wanted.model_copy(update={"rows": settings.sequences})
            rows_field = "background.sequences"
        kept = self.__dict__.setdefault("kept_texts", {})
        place = field, wanted.model_dump_json()
        if place not in kept:
            found, missing = corpora.load_texts(f"{field}.text", wanted, self.root, rows_field)
            kept[place] = found[: wanted.at_most], missing
        return kept[place]

    def left_out(
        self, field: str, settings: BackgroundSettings | RetrofitSettings | None = None
    ) -> str:
        """What a record notes about rows without text: nothing where every row has one.

        field, settings: as for `texts`, or "prose".
        """
        found = self._wikitext if field == "prose" else self._texts(field, settings)
        missing = 0 if found is None else found[1]
        return f"; {missing} rows without text left out" if missing else ""

    def empty_model(self) -> nn.Module:
        """The base model's modules without their weights.

        Raises ValueError if no model can be as its configuration says.
        """
        try:
            config = AutoConfig.from_pretrained(self.model_files.path)
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(config)
        except (StrictDataclassError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"model.source={self.profile.model.source!r}: no model can be as its config.json "
                f"says ({reason}); fetch it again"
            ) from error

    def load_base(self) -> LoadedModel:
        """The base model in float32 on this machine's device, and its tokenizer."""
        model, tokenizer = load_model(self.model_files)
        return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer

    def _own_text(
        self, name: str, sequences: int, tokens: int, seed: int, base: LoadedModel | None
    ) -> list[list[int]]:
        """What the base model writes: as it came with the library, as kept, or written now."""
        key = own_text_key(self, sequences, tokens, seed)
        shipped = own_text.shipped(key.digest)
        if shipped is not None:
            return json.loads(shipped.read_text(encoding="utf-8"))
        path = self.kept / f"{name}-{key.digest}.json"
        if path.is_file() and len(kept_json(path, list) or ()) != sequences:
            path.unlink(missing_ok=True)
        with making(path) as missing:
            if missing:
                model, tokenizer = base or self.load_base()
                text = own_text.write_self_text(model, tokenizer, sequences, tokens, seed)
                keep_json(path, text)
        return cast("list[list[int]]", kept_json(path, list))

    def background_text(
        self, base: LoadedModel | None = None, settings: BackgroundSettings | None = None
    ) -> list[list[int]]:
        """Token ids of a background text, by default the profile's.

        Without texts of its own it is what the base model writes, once for all runs. In a sequence
        the rows of the tasks learned before may come after it.
        """
        s = settings or self.profile.background
        learned = self.learned_rows() if s.learned else []
        further = [row["input_ids"] for rows in learned for row in rows]
        texts = self.texts("background", s)
        if texts is None:
            return self._own_text("background", s.sequences, s.tokens, s.seed, base) + further
        _, tokenizer = base or self.load_base()
        return [tokenizer(text).input_ids[: s.tokens] for text in texts] + further

    def learned_rows(self) -> list[list[dict]]:
        """The training rows of each task that was learned before, token ids and labels."""
        tokenizer = load_tokenizer(self.model_files) if self.learned else None
        views = [self.of_task(task) for task in self.learned]
        return [[view.encode(q, tokenizer) for q in view.exam.train] for view in views]

    def self_text(self, base: LoadedModel | None = None) -> list[list[int]]:
        """Token ids of the text on which the KL divergence from the base model is measured."""
        s = self.profile.probes
        return self._own_text(
            "self-text", s.self_text_sequences, s.self_text_tokens, s.self_text_seed, base
        )

    @property
    def format(self) -> Cloze | Lettered:
        """How questions become text."""
        return cast("Cloze | Lettered", FORMATS[self.exam.format])

    def encode(self, question: ExamQuestion, tokenizer: PreTrainedTokenizerBase) -> dict:
        """Token ids and labels of one exam question, as it is trained on."""
        return self.format.encode(question, tokenizer, self.profile.training.max_length)
