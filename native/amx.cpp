// Whether AMX can be used, and its table of kernels. Compiled for every processor.
#include "amx.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace bz {

// Linux gives a process the memory for the tiles' contents on request. It refuses if a thread has an alternate stack
// for signals that is too small for them.
static bool ask() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool tiles = d >> 24 & 1, int8 = d >> 25 & 1, vbmi = c >> 1 & 1;
    constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return tiles && int8 && vbmi && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

bool amx_usable() {
    static int known = -1;  // threads that come at once write the same
    if (known < 0) known = ask();
    return known;
}

static Kernels make() {
    Kernels k = avx512_kernels;
    k.conv = amx_conv;
    k.scaled = amx_scaled;
    k.peak = amx_peak;
    k.row_channels = k.row_bytes = 0;
    return k;
}

static const Kernels table = make();  // when the library is loaded: the other table is a constant

const Kernels& amx_kernels() { return table; }

}  // namespace bz
