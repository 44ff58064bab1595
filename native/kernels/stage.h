// A piece's epilogue where its bypass is made on the way, or its values go on to a tail or become bits.
#pragma once

#include "bits.h"
#include "resize.h"
#include "tail.h"

namespace bz {
namespace BZ_NS {

static bool is_staged(const bz_epilogue& e) { return e.tail.channels || e.bypass_resize.height || e.bits; }

// What all pieces of a convolution share. Returns a bz_status; free(r.rows) later.
static int make_bypass_resizer(Resizer& r, const bz_conv_shape& s, const bz_epilogue* e) {
    r = {};
    if (!e || !e->bypass.data || !e->bypass_resize.height) return BZ_OK;
    return make_resizer(r, e->bypass, e->bypass_resize, e->bypass_channels, s.out_h, s.out_w);
}

static float* lines_for(int64_t positions, int64_t pixel) {
    return static_cast<float*>(aligned_alloc(64, size_t(positions * pixel) * sizeof(float)));
}

// Calls compute(epilogue) with one whose maps, where they are not the given ones, hold this piece only.
template <class Compute>
static int staged(const bz_epilogue& e, const bz_conv_shape& s, const Resizer& r, const Piece& piece,
                  const Compute& compute) {
    bz_epilogue inner = e;
    const int64_t positions = piece.end - piece.begin;
    float *values = nullptr, *bypass = nullptr;
    // in maps of one piece, positions count from the beginning of the line
    const bool kept = e.tail.channels || !e.out.data;
    if (kept) {
        const int64_t pixel = (s.out_channels + 15) / 16 * 16;
        values = lines_for(positions, pixel);
        inner.out = {values - piece.begin * pixel, 0, 0, pixel, 1, 0};
    }
    if (r.rows) {
        const int64_t pixel = (r.channels + 15) / 16 * 16;
        bypass = lines_for(positions, pixel);
        if (bypass) resize_run(r, piece.image, piece.line, piece.begin, piece.end, bypass, pixel);
        inner.bypass = {bypass - piece.begin * pixel, 0, 0, pixel, 1, 0};
    }
    const bool enough = (values || !kept) && (bypass || !r.rows);
    if (enough) {
        compute(inner);
        if (e.tail.channels) run_tail(e.tail, s.out_channels, values, inner.out.pixel, piece);
        if (e.bits) put_bits(*e.bits, piece, at(inner.out, piece.image, piece.line, piece.begin), inner.out.pixel);
    }
    free(values);
    free(bypass);
    return enough ? BZ_OK : BZ_NO_MEMORY;
}

}  // namespace BZ_NS
}  // namespace bz
