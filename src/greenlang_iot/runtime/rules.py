"""The rule file that the settings name."""

from greenlang_iot.alerts.rule_file import NO_RULES, RuleSet, parse
from greenlang_iot.model.errors import InputError
from greenlang_iot.settings.model import AlertSettings


def load_rules(settings: AlertSettings) -> RuleSet:
    """The rules of `alerts.rules_file`, none without one. Raises InputError with every mistake's line."""
    path = settings.rules_file
    if path is None:
        return NO_RULES
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the alert rules {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the alert rules {path} are not UTF-8 text") from error
    return parse(text, str(path))
