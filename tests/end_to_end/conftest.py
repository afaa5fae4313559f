"""The shipped pipeline, run once a session, and workspaces that start from its results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dvc_project import Project, copy_project


@pytest.fixture(scope="session")
def new_project(
    tmp_path_factory: pytest.TempPathFactory, project_root: Path
) -> Callable[[str], Project]:
    """Makes a committed copy of the project that has not run yet."""

    def make(name: str) -> Project:
        folder = tmp_path_factory.mktemp(name)
        return copy_project(project_root, folder / "project", folder / "home")

    return make


@pytest.fixture(scope="session")
def sample_run(new_project: Callable[[str], Project]) -> Project:
    """The project after ``dvc repro`` with ``params.yaml`` as shipped, its results committed.

    Tests only read it; those that change something take ``workspace``.
    """
    project = new_project("sample")
    project.dvc("repro")
    project.commit("Results")
    return project


@pytest.fixture
def bare_clone(sample_run: Project, tmp_path: Path) -> Project:
    """A git clone of ``sample_run``: what is in git, no data and no models."""
    root = tmp_path / "clone"
    sample_run.git("clone", "--quiet", str(sample_run.root), str(root))
    return Project(root, tmp_path / "home")


@pytest.fixture
def workspace(sample_run: Project, bare_clone: Project) -> Project:
    """A clone with data and models, out of the cache of ``sample_run``; free to be changed."""
    cache = sample_run.root / ".dvc" / "cache"
    bare_clone.dvc("config", "--local", "cache.dir", str(cache))
    bare_clone.dvc("checkout")
    return bare_clone
