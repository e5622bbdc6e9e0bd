"""Read by PyInstaller: engines are imported by computed names, and names.txt is data."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

hiddenimports = collect_submodules("microgpt", filter=lambda name: "_pyinstaller" not in name)
datas = collect_data_files("microgpt", includes=["names.txt"])
