// Checks of shapes and pointers that every public function makes before a kernel runs.
#pragma once

#include "internal.h"

namespace bz {

bool good_activation(const bz_activation& a);
bool good_plane(const bz_plane_shape* s);
bool good_conv(const bz_conv_shape* s);       // every position read lies within the plane and its border
bool good_depthwise(const bz_conv_shape* s);  // the same, one filter per channel
bool good_resize(const bz_resize* r);         // or null
bool good_epilogue(const bz_conv_shape& s, const bz_epilogue* e);
bool good_stem(const bz_conv_shape* s, const bz_map* x, const bz_pool* pool, const bz_epilogue* e);  // pool: or null

}  // namespace bz
