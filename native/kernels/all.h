// The kernels of one instruction set, as a table. Defined before: BZ_NS (namespace), BZ_VEC_BYTES, BZ_KERNELS (name of
// the table), BZ_STEPS (that of the steps, made in a file of its own).
#include "conv.h"
#include "depthwise.h"
#include "pack.h"
#include "scaled.h"
#include "stem.h"
#include "../steps.h"

namespace bz {

extern const Kernels BZ_KERNELS = {BZ_NS::channel_sums, BZ_NS::pack,   BZ_NS::conv,         BZ_NS::depthwise,
                                   BZ_NS::scaled,       BZ_NS::stem,   BZ_NS::peak,         BZ_VEC_BYTES == 32,
                                   BZ_NS::kPiece * BZ_NS::kPieces, BZ_NS::kRowWords / 16, &BZ_STEPS};

}  // namespace bz
