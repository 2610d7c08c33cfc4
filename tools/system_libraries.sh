#!/bin/sh
# gmsh and VTK are wheels, but they load a few libraries of the system. Say which are missing, and install them where
# that needs no password (Debian and Ubuntu, as root).
python=$1
check() { "$python" -c "import gmsh, pyvista" >/dev/null 2>&1 && "$python" - >/dev/null 2>&1 <<'P'
import ctypes.util, sys
sys.exit(0 if sys.platform != "linux" or ctypes.util.find_library("EGL") or ctypes.util.find_library("OSMesa") else 1)
P
}
check && exit 0
packages="libegl1 libgl1-mesa-dri libglu1-mesa libxcursor1 libxft2 libxinerama1"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing system libraries: $packages"
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install $packages; } >/dev/null || true
    check && exit 0
fi
echo "gmsh or PyVista cannot find its system libraries; on Debian or Ubuntu: sudo apt-get install $packages" >&2
exit 1
