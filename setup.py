"""What pyproject.toml cannot say: the recipes beside the package are installed inside of it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["binarize*"]), "binarize._recipes"],
    package_dir={"binarize._recipes": "recipes"},
    package_data={"binarize": ["py.typed"], "binarize._recipes": ["**/*.yaml"]},
)
