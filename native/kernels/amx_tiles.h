// Sums of products in the tile registers of AMX.
#pragma once

#include "amx_plan.h"

namespace bz {
namespace BZ_NS {

struct alignas(64) TileConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
};

// 0 to 3: sums of two tiles of positions times two of outputs; 4, 5: positions; 6, 7: outputs.
static void configure_tiles(int rows) {
    TileConfig c = {};
    c.palette = 1;
    for (int i = 0; i < 8; ++i) {
        c.bytes[i] = kStep;
        c.rows[i] = uint8_t(i < 6 ? rows : kRows);
    }
    asm volatile("" : : "r"(&c) : "memory");  // the intrinsic names the first eight bytes only
    _tile_loadconfig(&c);
}

// The sums of A * rows positions and B * 16 outputs over steps [begin, end), added to those of the steps before. A step
// is 64 products of one tap; all taps of one step come before the next one, since they read the same positions.
// The intrinsics say nothing of the memory that they read and write: the fences do.
template <int A, int B>
static void multiply(const MatrixPlan& p, const int8_t* a, const int8_t* b, int64_t begin, int64_t end,
                     int32_t* sums) {
    const int64_t row = p.s.stride_w * kStep, second = p.rows * row, plane = p.positions * kStep;
    constexpr int64_t kPitch = kStrip * sizeof(int32_t);
    int32_t* const below = sums + p.rows * kStrip;
    BZ_FENCE;
    if (begin == 0) {
        _tile_zero(0);
        if (B == 2) _tile_zero(1);
        if (A == 2) _tile_zero(2);
        if (A == 2 && B == 2) _tile_zero(3);
    } else {
        _tile_loadd(0, sums, kPitch);
        if (B == 2) _tile_loadd(1, sums + kRows, kPitch);
        if (A == 2) _tile_loadd(2, below, kPitch);
        if (A == 2 && B == 2) _tile_loadd(3, below + kRows, kPitch);
    }
    const int64_t taps = bz_taps(p.s);
    int64_t tap = begin % taps;
    a += begin / taps * plane;
    for (int64_t i = begin; i < end; tap = 0, a += plane) {
        for (; tap < taps && i < end; ++tap, ++i, b += B * kTileBytes) {
            const int8_t* const at = a + p.offsets[tap];
            _tile_loadd(4, at, row);
            _tile_loadd(6, b, kStep);
            _tile_dpbssd(0, 4, 6);
            if (B == 2) {
                _tile_loadd(7, b + kTileBytes, kStep);
                _tile_dpbssd(1, 4, 7);
            }
            if (A == 2) {
                _tile_loadd(5, at + second, row);
                _tile_dpbssd(2, 5, 6);
            }
            if (A == 2 && B == 2) _tile_dpbssd(3, 5, 7);
        }
    }
    _tile_stored(0, sums, kPitch);
    if (B == 2) _tile_stored(1, sums + kRows, kPitch);
    if (A == 2) _tile_stored(2, below, kPitch);
    if (A == 2 && B == 2) _tile_stored(3, below + kRows, kPitch);
    BZ_FENCE;
}

// The sums of `count` positions, and of those that fill up the last tile.
template <int B>
static void multiply_run(const MatrixPlan& p, const int8_t* a, int64_t count, const int8_t* b, int64_t begin,
                         int64_t end, int32_t* sums) {
    const int64_t bytes = p.s.stride_w * kStep;
    int64_t done = 0;
    for (; done + p.rows < count; done += 2 * p.rows)
        multiply<2, B>(p, a + done * bytes, b, begin, end, sums + done * kStrip);
    if (done < count) multiply<1, B>(p, a + done * bytes, b, begin, end, sums + done * kStrip);
}

}  // namespace BZ_NS
}  // namespace bz
