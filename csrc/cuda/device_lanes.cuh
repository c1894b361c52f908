// The lanes of a thread block on the device (team/team_block.h).
#pragma once

#include "../team/team_block.h"

namespace fastmaml::FM_ISA {

// A block's shared memory: scratch memory, the image of the call, fast memory.
extern __shared__ double2 shared_memory[];

// The threads of a block and the blocks of a cluster, as powers of two; numbers of scratch memory.
#ifndef FM_COMPILED
struct LaneSizes {
  int log_size, log_blocks, scratch;
};
#else
struct LaneSizes {
  FM_HD LaneSizes(int, int, int) {}
  static constexpr int log_size = known::log_lanes, log_blocks = known::log_blocks,
                       scratch = known::scratch_size;
};
#endif

template <class Real>
class DeviceLanes {
 public:
  // `block`: which one of the cluster this is.
  FM_HD DeviceLanes(LaneSizes sizes, int block) : sizes_(sizes), block_(block) {}

  __device__ __forceinline__ int rank() const { return threadIdx.x; }
  FM_HD int size() const { return 1 << sizes_.log_size; }
  FM_HD int log_size() const { return sizes_.log_size; }
  FM_HD int block() const { return sizes_.log_blocks > 0 ? block_ : 0; }
  FM_HD int blocks() const { return 1 << sizes_.log_blocks; }
  FM_HD int log_blocks() const { return sizes_.log_blocks; }
  __device__ __forceinline__ void sync_block() { __syncthreads(); }
  __device__ __forceinline__ void sync() {
#if __CUDA_ARCH__ >= 900
    if (sizes_.log_blocks > 0) {
      asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
      return;
    }
#endif
    __syncthreads();
  }
  __device__ __forceinline__ Real* scratch() { return reinterpret_cast<Real*>(shared_memory); }
  FM_HD int scratch_size() const { return sizes_.scratch; }

  // Global memory is; older GPUs copy at once.
  __device__ __forceinline__ bool is_far(const Real* from) const {
#if __CUDA_ARCH__ >= 800
    return __isGlobal(from);
#else
    return false;
#endif
  }
  __device__ __forceinline__ void copy_far(const Real* from, Real* to) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(to))),
                 "l"(from), "n"(sizeof(Real))
                 : "memory");
#endif
  }
  __device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
  }

 private:
  LaneSizes sizes_;
  int block_;
};

}  // namespace fastmaml::FM_ISA
