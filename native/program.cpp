// Programs: steps one after the other, without anything in between.
#include "checks.h"
#include "steps.h"

using namespace bz;

namespace {

template <class Arguments>
int run_checked(int threads, int (*kernel)(int, const Arguments&), const void* given) {
    const Arguments* const arguments = static_cast<const Arguments*>(given);
    return good_step(arguments) ? kernel(threads, *arguments) : BZ_BAD_ARGUMENT;
}

int run_stem(int isa, int threads, const bz_stem_step* s) {
    if (!s) return BZ_BAD_ARGUMENT;
    return bz_stem(isa, threads, s->shape, &s->x, s->weights, s->norm, s->pool, s->epilogue);
}

int run_step(int isa, int threads, const StepKernels& k, const bz_step& step) {
    switch (step.kind) {
        case BZ_STEP_LAYER: return layer_step(isa, threads, static_cast<const bz_layer_step*>(step.arguments));
        case BZ_STEP_STEM: return run_stem(isa, threads, static_cast<const bz_stem_step*>(step.arguments));
        case BZ_STEP_POINTWISE: return run_checked(threads, k.pointwise, step.arguments);
        case BZ_STEP_LAYER_NORM: return run_checked(threads, k.layer_norm, step.arguments);
        case BZ_STEP_POOL: return run_checked(threads, k.pool, step.arguments);
        case BZ_STEP_MEAN: return run_checked(threads, k.mean, step.arguments);
        case BZ_STEP_LINEAR: return run_checked(threads, k.linear, step.arguments);
        case BZ_STEP_COPY: return run_checked(threads, k.copy, step.arguments);
        case BZ_STEP_RESIZE: return run_checked(threads, k.resize, step.arguments);
        case BZ_STEP_SOFTMAX: return run_checked(threads, k.softmax, step.arguments);
        case BZ_STEP_ATTENTION: return run_checked(threads, k.attention, step.arguments);
        default: return BZ_BAD_ARGUMENT;
    }
}

}  // namespace

extern "C" int bz_run(int isa, int threads, int64_t count, const bz_step* steps, int64_t* failed) {
    if (threads < 1 || count < 0 || (count > 0 && !steps)) return BZ_BAD_ARGUMENT;
    const Kernels* const kernels = kernels_of(isa);
    if (!kernels) return BZ_NO_ISA;
    for (int64_t i = 0; i < count; ++i) {
        const int status = run_step(isa, threads, *kernels->steps, steps[i]);
        if (status == BZ_OK) continue;
        if (failed) *failed = i;
        return status;
    }
    return BZ_OK;
}
