"""Read by PyInstaller: engines are imported by computed names, and some files are data."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

hiddenimports = collect_submodules("microgpt", filter=lambda name: "_pyinstaller" not in name)
data = ["names.txt", "report.css", "report.js", "exports/*.py"]
datas = collect_data_files("microgpt", include_py_files=True, includes=data)
