"""compose.yaml with what it gives Prometheus and Grafana, held against the Dockerfile, the settings and each other."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from guard.settings import GuardSettings
from learner.settings import LearnerSettings
from tests.deploy.test_dockerfile import FINAL, read_stages

ROOT: Final = Path(__file__).parents[2]
OURS: Final = ("guard", "learner")
MONITORING: Final = ("prometheus", "grafana")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return parsed


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def _volumes(service: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return volume or path ▶ (where it is mounted, `rw` or `ro`)."""
    parts = (volume.split(":") for volume in service.get("volumes", []))
    return {part[0]: (part[1], part[2] if len(part) > 2 else "rw") for part in parts}


def test_services(services: dict[str, Any]) -> None:
    """Guard, learner and PostgreSQL; Prometheus and Grafana where they are asked for, and nothing else."""
    assert set(services) == {"guard", "learner", "postgres", *MONITORING}
    assert {name for name, service in services.items() if service.get("profiles") == ["monitoring"]} == set(MONITORING)


@pytest.mark.parametrize("name", OURS)
def test_builds_a_target(services: dict[str, Any], name: str) -> None:
    """Our services are built from targets of the Dockerfile."""
    assert services[name]["build"] == {"context": ".", "target": name}
    assert name in FINAL


@pytest.mark.parametrize("name", OURS)
def test_variables_are_settings(services: dict[str, Any], name: str) -> None:
    """Each GUARD_ or LEARNER_ variable is a setting and its value is accepted."""
    environment = services[name]["environment"]
    for prefix, settings in (("GUARD_", GuardSettings), ("LEARNER_", LearnerSettings)):
        given = {k.removeprefix(prefix).lower(): v for k, v in environment.items() if k.startswith(prefix)}
        assert set(given) <= set(settings.model_fields)
        settings.model_validate(given)


def test_guard_and_learner_meet(services: dict[str, Any]) -> None:
    """Both use one database, one keyring and one exports folder; only the learner may write the two folders."""
    guard, learner = (services[name] for name in OURS)
    for variable in ("GUARD_DATABASE_URL", "GUARD_KEYRING_FILE"):
        assert guard["environment"][variable] == learner["environment"][variable]
    for volume, setting in (("keyring", "GUARD_DATA_DIR"), ("exports", "GUARD_EXPORTS_DIR")):
        folder = read_stages()[0]["guard"].environment[setting]
        assert _volumes(guard)[volume] == (folder, "ro")
        assert _volumes(learner)[volume] == (folder, "rw")
    keyring_file = Path(guard["environment"]["GUARD_KEYRING_FILE"])
    assert str(keyring_file.parent) == _volumes(guard)["keyring"][0]


def test_database_is_the_one_beside(services: dict[str, Any]) -> None:
    """The database's URL names the PostgreSQL service, its user, its database and its password; version 16 or newer."""
    postgres = services["postgres"]
    environment = postgres["environment"]
    url = services["guard"]["environment"]["GUARD_DATABASE_URL"]
    user, database, password = (environment[f"POSTGRES_{part}"] for part in ("USER", "DB", "PASSWORD"))
    assert url == f"postgresql://{user}:{password}@postgres:5432/{database}"
    assert GuardSettings(database_url=url).store_url.startswith("postgresql+asyncpg://")
    assert int(re.fullmatch(r"postgres:(\d+)\.\d+-\w+", postgres["image"])[1]) >= 16  # type: ignore[index]
    assert postgres["healthcheck"]["test"][0] == "CMD"
    assert all(services[name]["depends_on"]["postgres"] == {"condition": "service_healthy"} for name in OURS)


def test_no_secret_is_written_down(services: dict[str, Any]) -> None:
    """Passwords and keys come from outside, and without a database password nothing starts."""
    text = (ROOT / "compose.yaml").read_text()
    assert all(value.startswith("${POSTGRES_PASSWORD:?") for value in re.findall(r"POSTGRES_PASSWORD: (.*)", text))
    assert services["learner"]["environment"]["OPENAI_API_KEY"].startswith("${")
    assert not any(variable.startswith("OPENAI") for variable in services["guard"]["environment"])


def test_only_this_machine_reaches_the_ports(services: dict[str, Any]) -> None:
    """Published ports are bound to loopback; database and learner publish none."""
    published = {name: service.get("ports", []) for name, service in services.items()}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert {name for name, ports in published.items() if ports} == {"guard", *MONITORING}
    assert published["guard"] == [f"127.0.0.1:8000:{read_stages()[0]['guard'].environment['GUARD_PORT']}"]


@pytest.mark.parametrize("name", OURS)
def test_our_containers_are_confined(services: dict[str, Any], name: str) -> None:
    """Ours run read-only, without capabilities, within limits, with a thread for each CPU and time to end well."""
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    limits = service["deploy"]["resources"]["limits"]
    assert service["environment"][f"{name.upper()}_THREADS"] == limits["cpus"]
    assert limits["memory"]
    assert int(service["stop_grace_period"].removesuffix("s")) > GuardSettings().drain_s


def test_volumes_are_declared(compose: dict[str, Any], services: dict[str, Any]) -> None:
    """Every named volume that is mounted is declared, every declared one is mounted, and every mounted path exists."""
    mounted = {source for service in services.values() for source in _volumes(service)}
    assert {source for source in mounted if not source.startswith(".")} == set(compose["volumes"])
    assert all((ROOT / source).exists() for source in mounted if source.startswith("."))


def test_prometheus_scrapes_the_guard(services: dict[str, Any]) -> None:
    """Prometheus is given a configuration that scrapes the guard where it listens, and every file of rules it names."""
    folder = ROOT / "deploy" / "prometheus"
    parsed = yaml.safe_load((folder / "prometheus.yml").read_text())
    for file in ("prometheus.yml", *parsed["rule_files"]):
        assert _volumes(services["prometheus"])[f"./deploy/prometheus/{file}"] == (f"/etc/prometheus/{file}", "ro")
    assert sorted(parsed["rule_files"]) == sorted(file.name for file in folder.glob("*.rules.yml"))
    (job,) = parsed["scrape_configs"]
    (group,) = job["static_configs"]
    assert group["targets"] == [f"guard:{read_stages()[0]['guard'].environment['GUARD_PORT']}"]
    assert job["metrics_path"] == "/metrics"


def test_grafana_shows_the_dashboard(services: dict[str, Any]) -> None:
    """Grafana is given the Prometheus beside it, at the pace of its scrapes, and the dashboard, which it shows first."""
    provisioned = ROOT / "deploy" / "grafana" / "provisioning"
    volumes = _volumes(services["grafana"])
    assert volumes["./deploy/grafana/provisioning"] == ("/etc/grafana/provisioning", "ro")
    home, _ = volumes["./deploy/grafana/guard.json"]
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == home
    (provider,) = yaml.safe_load((provisioned / "dashboards" / "lifeguard.yml").read_text())["providers"]
    assert provider["options"]["path"] == str(Path(home).parent)
    (source,) = yaml.safe_load((provisioned / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraped["scrape_interval"]


def test_grafana_may_only_be_looked_at(services: dict[str, Any]) -> None:
    """Whoever reaches Grafana's port is a viewer; there is no account, and nothing is told to its makers."""
    environment = services["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_ANALYTICS_REPORTING_ENABLED"] == "false"
