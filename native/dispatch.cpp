// The public functions: checks, then the kernel of the wanted instruction set.
#include <string.h>

#include "checks.h"
#ifdef BZ_AMX
#include "amx.h"
#endif

#ifndef BZ_FLAGS
#define BZ_FLAGS "unknown"
#endif
#ifndef BZ_VERSION
#define BZ_VERSION "unknown"
#endif
#ifdef _OPENMP
#define BZ_OPENMP "1"
#else
#define BZ_OPENMP "0"
#endif
#ifdef BZ_EMULATE_AVX512
#define BZ_EMULATED ";emulated=avx512"
#else
#define BZ_EMULATED ""
#endif
#if defined(__clang__)
#define BZ_COMPILER "clang " __VERSION__
#else
#define BZ_COMPILER "g++ " __VERSION__
#endif

namespace bz {
namespace {

int chosen = BZ_ISA_AUTO;  // by bz_set_isa; a plain int: a torn read is impossible, a late one harmless

bool supported(int isa) {
    if (isa == BZ_ISA_PORTABLE) return true;
#if defined(__x86_64__)
    __builtin_cpu_init();
    // what the files are compiled with: a virtual machine may hide any of them
    const bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    if (isa == BZ_ISA_AVX2) return avx2;
#if defined(BZ_EMULATE_AVX512)
    if (isa == BZ_ISA_AVX512) return avx2;
#endif
    if (isa == BZ_ISA_AVX512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vpopcntdq");
#ifdef BZ_AMX
    if (isa == BZ_ISA_AMX) return supported(BZ_ISA_AVX512) && amx_usable();
#endif
#endif
    return false;
}

int best() {
    for (int isa = BZ_ISA_AMX; isa > BZ_ISA_PORTABLE; --isa)
        if (supported(isa)) return isa;
    return BZ_ISA_PORTABLE;
}

}  // namespace

const Kernels* kernels_of(int isa) {
    if (isa == BZ_ISA_AUTO) isa = bz_get_isa();
    if (!supported(isa)) return nullptr;
#ifdef BZ_AMX
    if (isa == BZ_ISA_AMX) return &amx_kernels();
#endif
#if defined(__x86_64__)
    if (isa == BZ_ISA_AVX512) return &avx512_kernels;
    if (isa == BZ_ISA_AVX2) return &avx2_kernels;
#endif
    return &portable_kernels;
}

}  // namespace bz

using namespace bz;

extern "C" {

int bz_abi_version(void) { return BZ_ABI_VERSION; }

const char* bz_build_info(void) {
    return "compiler=" BZ_COMPILER ";flags=" BZ_FLAGS ";version=" BZ_VERSION ";openmp=" BZ_OPENMP BZ_EMULATED;
}

const char* bz_cpu_features(void) {
#if defined(__x86_64__)
    static char text[256];  // written with the same bytes by whoever comes first
    char made[256] = "";
    __builtin_cpu_init();
#define BZ_FEATURE(name) \
    if (__builtin_cpu_supports(name)) strcat(made, made[0] ? " " name : name);
    BZ_FEATURE("ssse3") BZ_FEATURE("popcnt") BZ_FEATURE("avx2") BZ_FEATURE("fma") BZ_FEATURE("bmi2")
    BZ_FEATURE("avx512f") BZ_FEATURE("avx512bw") BZ_FEATURE("avx512vl") BZ_FEATURE("avx512dq")
    BZ_FEATURE("avx512vpopcntdq") BZ_FEATURE("avx512bitalg") BZ_FEATURE("avx512vbmi") BZ_FEATURE("avx512vnni")
#undef BZ_FEATURE
#ifdef BZ_AMX
    if (supported(BZ_ISA_AMX)) strcat(made, " amx");
#endif
    memcpy(text, made, sizeof text);
    return text;
#elif defined(__aarch64__)
    return "neon";
#else
    return "";
#endif
}

int bz_isa_available(int isa) { return isa != BZ_ISA_AUTO && supported(isa); }

int bz_set_isa(int isa) {
    if (isa != BZ_ISA_AUTO && !supported(isa)) return BZ_NO_ISA;
    chosen = isa;
    return BZ_OK;
}

int bz_get_isa(void) {
    const int isa = chosen;
    return isa == BZ_ISA_AUTO ? best() : isa;
}

int bz_peak(int isa, int64_t rounds, double* macs) {
    if (rounds < 1 || !macs) return BZ_BAD_ARGUMENT;
    const Kernels* kernels = kernels_of(isa);
    if (!kernels) return BZ_NO_ISA;
    *macs = kernels->peak(rounds);
    return BZ_OK;
}

int bz_channel_sums(int isa, int threads, const bz_plane_shape* shape, const bz_map* x, float* sums) {
    if (threads < 1 || !good_plane(shape) || !x || !x->data || x->channel != 1 || !sums) return BZ_BAD_ARGUMENT;
    const Kernels* kernels = kernels_of(isa);
    return kernels ? kernels->sums(threads, *shape, *x, nullptr, sums) : BZ_NO_ISA;
}

int bz_pack(int isa, int threads, const bz_plane_shape* shape, const bz_map* x, const bz_resize* resize,
            const float* mul, const float* add, int64_t add_stride, uint32_t* plane, float* abs_sums) {
    if (threads < 1 || !good_plane(shape) || !x || !x->data || !plane) return BZ_BAD_ARGUMENT;
    if (x->channel != 1 && (x->pixel != 1 || resize || x->bf16)) return BZ_BAD_ARGUMENT;
    if (!good_resize(resize)) return BZ_BAD_ARGUMENT;
    if (add_stride != 0 && add_stride != shape->channels) return BZ_BAD_ARGUMENT;
    const Kernels* kernels = kernels_of(isa);
    return kernels ? kernels->pack(threads, *shape, *x, resize, mul, add, add_stride, plane, abs_sums) : BZ_NO_ISA;
}

static int run_conv(int isa, int threads, const bz_conv_shape* shape, const uint32_t* plane, const uint32_t* words,
                    const int32_t* counts, const bz_epilogue* epilogue, int32_t* out, bool depthwise) {
    if (threads < 1 || !(depthwise ? good_depthwise(shape) : good_conv(shape)) || !plane) return BZ_BAD_ARGUMENT;
    if (bz_taps(*shape) > 0 && (!words || !counts)) return BZ_BAD_ARGUMENT;
    if (out ? epilogue || bz_scale_groups(*shape) > 1 : !good_epilogue(*shape, epilogue)) return BZ_BAD_ARGUMENT;
    if (depthwise && epilogue && epilogue->tail.channels) return BZ_BAD_ARGUMENT;
    const Kernels* kernels = kernels_of(isa);
    if (!kernels) return BZ_NO_ISA;
    if (depthwise && bz_taps(*shape) > 255) return BZ_UNSUPPORTED;
    return (depthwise ? kernels->depthwise : kernels->conv)(threads, *shape, plane, words, counts, epilogue, out);
}

int bz_conv(int isa, int threads, const bz_conv_shape* shape, const uint32_t* plane, const uint32_t* words,
            const int32_t* counts, const bz_epilogue* epilogue) {
    return run_conv(isa, threads, shape, plane, words, counts, epilogue, nullptr, false);
}

int bz_conv_int(int isa, int threads, const bz_conv_shape* shape, const uint32_t* plane, const uint32_t* words,
                const int32_t* counts, int32_t* out) {
    if (!out) return BZ_BAD_ARGUMENT;
    return run_conv(isa, threads, shape, plane, words, counts, nullptr, out, false);
}

int bz_depthwise(int isa, int threads, const bz_conv_shape* shape, const uint32_t* plane, const uint32_t* words,
                 const int32_t* counts, const bz_epilogue* epilogue) {
    return run_conv(isa, threads, shape, plane, words, counts, epilogue, nullptr, true);
}

int bz_depthwise_int(int isa, int threads, const bz_conv_shape* shape, const uint32_t* plane, const uint32_t* words,
                     const int32_t* counts, int32_t* out) {
    if (!out) return BZ_BAD_ARGUMENT;
    return run_conv(isa, threads, shape, plane, words, counts, nullptr, out, true);
}

int bz_conv_scaled(int isa, int threads, const bz_conv_shape* shape, const uint32_t* plane, const uint16_t* words,
                   const float* alpha, int exact, const bz_epilogue* epilogue) {
    if (threads < 1 || !good_conv(shape) || !plane || !alpha || bz_scale_groups(*shape) > 1) return BZ_BAD_ARGUMENT;
    if ((bz_taps(*shape) > 0 && !words) || !good_epilogue(*shape, epilogue)) return BZ_BAD_ARGUMENT;
    if (epilogue->offset || epilogue->midpoint != 0) return BZ_BAD_ARGUMENT;
    const Kernels* kernels = kernels_of(isa);
    return kernels ? kernels->scaled(threads, *shape, plane, words, alpha, exact != 0, *epilogue) : BZ_NO_ISA;
}

int bz_stem(int isa, int threads, const bz_conv_shape* shape, const bz_map* x, const float* weights,
            const bz_norm* norm, const bz_pool* pool, const bz_epilogue* epilogue) {
    if (norm && (!norm->mean || !norm->variance)) return BZ_BAD_ARGUMENT;
    if (threads < 1 || !weights || !good_stem(shape, x, pool, epilogue)) return BZ_BAD_ARGUMENT;
    const Kernels* kernels = kernels_of(isa);
    if (!kernels) return BZ_NO_ISA;
    if (int64_t(shape->input.channels) * bz_taps(*shape) > 1 << 20) return BZ_UNSUPPORTED;
    if (pool && int64_t(pool->kernel_h) * pool->kernel_w > 1024) return BZ_UNSUPPORTED;
    return kernels->stem(threads, *shape, *x, weights, norm, pool, *epilogue);
}

}  // extern "C"
