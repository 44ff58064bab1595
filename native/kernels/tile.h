// count_mismatches(): for `positions` (at most kTile) and 16 * `sixteens` outputs, the number of bits in which the
// words at a + p * step + offsets[k] differ from the weights' words, k < length.
#pragma once

#include "simd.h"

#if BZ_VEC_BYTES == 64
#include "tile_avx512.h"
#elif BZ_VEC_BYTES == 32
#include "tile_avx2.h"
#else
#include "tile_portable.h"
#endif
