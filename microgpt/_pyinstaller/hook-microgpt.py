"""Read by PyInstaller: engines are imported by computed names, and some files are data."""

from pathlib import Path

from PyInstaller.utils.hooks import collect_data_files, get_package_paths

# By their files: `collect_submodules` would import every package.
base, package = get_package_paths("microgpt")
hiddenimports = []
for path in sorted(Path(package).rglob("*")):
    parts = path.relative_to(base).parts
    if path.suffix in (".py", ".so", ".pyd") and not {"_pyinstaller", "exports"} & set(parts):
        name = path.name.partition(".")[0]
        hiddenimports.append(".".join([*parts[:-1], *([] if name == "__init__" else [name])]))
data = ["names.txt", "report.css", "report.js", "exports/*.py"]
datas = collect_data_files("microgpt", include_py_files=True, includes=data)
