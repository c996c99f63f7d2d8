"""Settings: the values in force."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celeriac.config.names import BY_NAME, EVERY, hint, looks_like_ours, setting_of
from celeriac.config.secret import shown
from celeriac.config.setting import Effect, Setting
from celeriac.exceptions import ImproperlyConfigured

PROFILES = ("celery", "kubernetes")


class Settings:
    """The values in force: what is pinned, else what was set, else added defaults, else the profile's. Attributes and items are the same.

    Names outside the table are kept as they are: projects keep their own values here too. Those that look like a setting are an
    error all the same, which `check` raises: what a name means can be known only when all that sets it has run.
    """

    __slots__ = ("__dict__", "_added", "_changed", "_mixed", "_own", "_pinned", "_told", "profile")

    def __init__(self, values: Mapping[str, Any] | None = None, *, profile: str = "celery") -> None:
        if profile not in PROFILES:
            raise ImproperlyConfigured(f"profile {profile!r} does not exist; choose one of: {', '.join(PROFILES)}")
        put = object.__setattr__
        put(self, "profile", profile)
        #: The values in force, of known settings. What the others hold is merged here: reading one is reading an attribute.
        put(self, "__dict__", {setting.name: _fresh(setting.default_in(profile)) for setting in EVERY})
        put(self, "_changed", {})
        put(self, "_added", {})
        put(self, "_pinned", {})
        put(self, "_own", {})
        put(self, "_mixed", [])
        #: Name -> who is told when its value has changed.
        put(self, "_told", {})
        self.update(values or {})

    # -- setting

    def tell(self, name: str, told: Callable[[], None]) -> None:
        """Call `told` whenever the setting of that name has been given another value."""
        self._told[name] = told

    def _put(self, name: str, value: Any) -> None:
        self.__dict__[name] = value
        if name in self._told:
            self._told[name]()

    def pin(self, values: Mapping[str, Any]) -> None:
        """Set what no later assignment changes: the environment, and the command line above it."""
        for name, value in values.items():
            setting = setting_of(name)
            if setting is None:
                raise ImproperlyConfigured(f"there is no setting {name!r}{hint(name)}")
            self._pinned[setting.name] = converted = _converted(setting, name, value)
            self._put(setting.name, converted)

    @contextmanager
    def pinned(self, values: Mapping[str, Any]) -> Iterator[None]:
        """Within it these are pinned, above whatever was; then what held before holds again."""
        before = dict(self._pinned)
        self.pin(values)
        try:
            yield
        finally:
            for setting in filter(None, map(setting_of, values)):
                name = setting.name
                if name in before:
                    self._pinned[name] = before[name]
                    self._put(name, before[name])
                else:
                    del self._pinned[name]
                    default = self._added.get(name, _fresh(setting.default_in(self.profile)))
                    self._put(name, self._changed.get(name, default))

    def update(self, values: Mapping[str, Any] | None = None, **named: Any) -> None:
        """Set several at once; old names are translated. Raises ImproperlyConfigured for two names of one setting that contradict each other."""
        given = {**(values or {}), **named}
        self._compare(given)
        for name, value in given.items():
            self[name] = value

    def _compare(self, given: Mapping[str, Any]) -> None:
        names: dict[str, str] = {}
        for name in given:
            setting = setting_of(name)
            if setting is None:
                continue
            before = names.setdefault(setting.name, name)
            if before == name:
                continue
            if _converted(setting, before, given[before]) != _converted(setting, name, given[name]):
                raise ImproperlyConfigured(
                    f"{before} and {name} are two names of the setting {setting.name}, and they contradict each other: keep {setting.name} alone"
                )
            self._mixed.append((before, name, setting.name))

    def add_defaults(self, values: Mapping[str, Any]) -> None:
        """Values that hold where nothing is set: above the profile's defaults, below everything else."""
        for name, value in values.items():
            setting = setting_of(name)
            key = setting.name if setting is not None else name
            self._added[key] = _converted(setting, name, value) if setting is not None else value
            if key not in self._changed and key not in self._pinned and key not in self._own:
                self._put(key, self._added[key])

    def __setitem__(self, name: str, value: Any) -> None:
        setting = setting_of(name)
        if setting is None:
            self._own[name] = value
            return
        self._changed[setting.name] = converted = _converted(setting, name, value)
        if setting.name not in self._pinned:
            self._put(setting.name, converted)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def setdefault(self, name: str, value: Any) -> Any:
        """The value; set to `value` first when nobody has set it."""
        setting = setting_of(name)
        key = setting.name if setting is not None else name
        if key not in self._changed and key not in self._pinned and key not in self._own:
            self[name] = value
        return self[name]

    def __delitem__(self, name: str) -> None:
        """Back to its default; a name of the project's own is forgotten. Raises KeyError for one that was never set."""
        setting = setting_of(name)
        if setting is None:
            del self._own[name]
            return
        del self._changed[setting.name]
        if setting.name not in self._pinned:
            default = _fresh(setting.default_in(self.profile))
            self._put(setting.name, self._added.get(setting.name, default))

    def __delattr__(self, name: str) -> None:
        del self[name]

    # -- reading

    def __getitem__(self, name: str) -> Any:
        known = self.__dict__
        if name in known:
            return known[name]
        if name in self._own:
            return self._own[name]
        setting = setting_of(name)
        if setting is None:
            raise KeyError(name)
        return known[setting.name]

    def __getattr__(self, name: str) -> Any:  # today's names are found before it is asked
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no setting {name!r}{hint(name)}") from None

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or `default` when there is no such setting."""
        try:
            return self[name]
        except KeyError:
            return default

    def __contains__(self, name: str) -> bool:
        return name in self._own or setting_of(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, Any]:
        return {**self.__dict__, **self._own}

    def keys(self) -> Any:
        """All names, today's."""
        return self._all().keys()

    def values(self) -> Any:
        """All values."""
        return self._all().values()

    def items(self) -> Any:
        """All names with their values."""
        return self._all().items()

    @property
    def changes(self) -> dict[str, Any]:
        """What was set, by today's names, in the code or above it, whatever the default."""
        return {**self._own, **self._changed, **self._pinned}

    def value_set_for(self, name: str) -> bool:
        """Whether anybody has set it."""
        setting = setting_of(name)
        key = setting.name if setting is not None else name
        return key in self._changed or key in self._pinned or key in self._own

    def without_defaults(self) -> dict[str, Any]:
        """What differs from the profile's defaults: what was set, and dictionaries that were filled in place."""
        known: dict[str, Any] = {
            setting.name: value
            for setting in EVERY
            if (value := self.__dict__[setting.name]) != setting.default_in(self.profile)
        }
        return {**known, **self._own}

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Settings as a plain mapping, what differs from the defaults or all of it; censored: without secrets."""
        chosen = self._all() if with_defaults else self.without_defaults()
        return {name: shown(name, value) if censored else value for name, value in chosen.items()}

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """The same as text, a line each."""
        return "\n".join(f"{name}: {value!r}" for name, value in self.table(with_defaults, censored).items())

    def get_by_parts(self, *parts: str) -> Any:
        """`get_by_parts("task", "acks_late")`: Celery's way to say it."""
        return self["_".join(part for part in parts if part)]

    # -- checking

    def unknown(self) -> list[str]:
        """Names that are no setting and look like one, each with the nearest right name."""
        return [f"{name}{hint(name)}" for name in self._own if looks_like_ours(name)]

    def own(self) -> dict[str, Any]:
        """The project's own values."""
        return {name: value for name, value in self._own.items() if not looks_like_ours(name)}

    def check(self) -> None:
        """Raise ImproperlyConfigured naming all settings that do not exist, with the nearest right names."""
        wrong = self.unknown()
        if wrong:
            raise ImproperlyConfigured(
                f"there is no setting {', and no '.join(wrong)}. Values of your own may be kept here under names that do not look like a setting's"
            )

    def remarks(self) -> list[str]:
        """What somebody should be told once: settings that were set and do nothing, and two names of one setting."""
        idle = [
            f"the setting {name} has no effect here: {setting.help}"
            for name in (*self._changed, *self._pinned)
            if (setting := BY_NAME[name]).effect is Effect.NONE and self.__dict__[name] != setting.default
        ]
        twice = [
            f"{one} and {other} are two names of the setting {name}: keep {name} alone"
            for one, other, name in self._mixed
        ]
        return list(dict.fromkeys(idle + twice))

    def __repr__(self) -> str:
        return f"<Settings {self.profile}: {self.table()}>"


def _fresh(default: Any) -> Any:
    """A default of one's own: projects fill dictionaries in place."""
    return default.copy() if isinstance(default, dict | list) else default


def _converted(setting: Setting, name: str, value: Any) -> Any:
    try:
        return setting.type(value)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(
            f"setting {name}={shown(name, value)!r} cannot be used: {error}. {setting.help}"
        ) from error
