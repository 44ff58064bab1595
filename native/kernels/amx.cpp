#define BZ_NS amx
#define BZ_VEC_BYTES 64
#include "amx.h"

#include "../amx.h"

namespace bz {

// What is left to popcounts: values other than +-1, 0 and +-2, scales of groups, and what is not worth the expansion to
// int8: few products per output, few positions, narrow groups.
static bool by_popcount(const bz_conv_shape& s, const bz_epilogue* e) {
    const int64_t positions = int64_t(s.input.images) * s.out_h * s.out_w, taps = bz_taps(s);
    const int64_t steps = taps * bz_ceil_div(bz_group_words(s.input), 2);
    const bool apart = taps == 1 && s.stride_h * s.stride_w > 1;  // positions are expanded that nobody reads
    const bool few = taps > 1 ? steps < 9 || positions < 32 : steps < 12 || positions < 128 || apart;
    const bool narrow = s.input.groups > 1 && (bz_group_outputs(s) < 32 || s.input.channels / s.input.groups < 64);
    return amx::has_values(e) || bz_scale_groups(s) > 1 || few || narrow;
}

int amx_conv(int threads, const bz_conv_shape& s, const uint32_t* plane, const uint32_t* words, const int32_t* counts,
             const bz_epilogue* e, int32_t* out_int) {
    if (by_popcount(s, e)) return avx512_kernels.conv(threads, s, plane, words, counts, e, out_int);
    return amx::conv(threads, s, plane, words, e, out_int);
}

int amx_scaled(int threads, const bz_conv_shape& s, const uint32_t* plane, const uint16_t* words, const float* alpha,
               bool exact, const bz_epilogue& e) {
    if (bz_taps(s) == 0) return avx512_kernels.scaled(threads, s, plane, words, alpha, exact, e);  // reads no words
    const int64_t scales = int64_t(s.input.images) * s.input.channels;
    for (int64_t i = 0; i < scales; ++i)  // digits cannot hold what is not finite
        if (alpha[i] - alpha[i] != 0) return BZ_NOT_FINITE;
    // a sum of so many products would not fit 32 bits
    if (int64_t(s.input.channels / s.input.groups) * bz_taps(s) > INT32_MAX / amx::kMost) return BZ_UNSUPPORTED;
    return amx::scaled(threads, s, plane, words, alpha, exact, e);
}

double amx_peak(int64_t rounds) { return amx::peak(rounds); }

}  // namespace bz
