#include <stdint.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "binarize.h"

extern "C" void bz_large_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = uintptr_t(1) << 21;
    const uintptr_t begin = (uintptr_t(data) + page - 1) & ~(page - 1);
    const uintptr_t end = (uintptr_t(data) + uintptr_t(bytes)) & ~(page - 1);
    if (bytes > 0 && end > begin) (void)madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)data;
    (void)bytes;
#endif
}
