// The lanes of a thread block on the device (team/team_block.h).
#pragma once

#include <cooperative_groups.h>
#include <cuda_pipeline.h>

#include "../team/team_block.h"

namespace fastmaml::FM_ISA {

// A block's shared memory: scratch memory, the image of the call, fast memory.
extern __shared__ double2 shared_memory[];

template <class Real>
class DeviceLanes {
 public:
  // The threads of a block and the blocks of the cluster, as powers of two; which block this is.
  FM_HD DeviceLanes(int log_size, int log_blocks, int block, int scratch_size)
      : log_size_(log_size), log_blocks_(log_blocks), block_(block), scratch_size_(scratch_size) {}

  __device__ __forceinline__ int rank() const { return threadIdx.x; }
  __device__ __forceinline__ int size() const { return blockDim.x; }
  FM_HD int log_size() const { return log_size_; }
  FM_HD int block() const { return block_; }
  FM_HD int blocks() const { return 1 << log_blocks_; }
  FM_HD int log_blocks() const { return log_blocks_; }
  __device__ __forceinline__ void sync_block() { __syncthreads(); }
  __device__ __forceinline__ void sync() {
#if __CUDA_ARCH__ >= 900
    if (log_blocks_ > 0) {
      cooperative_groups::this_cluster().sync();
      return;
    }
#endif
    __syncthreads();
  }
  __device__ __forceinline__ Real* scratch() { return reinterpret_cast<Real*>(shared_memory); }
  FM_HD int scratch_size() const { return scratch_size_; }

  // Global memory is; older GPUs copy at once.
  __device__ __forceinline__ bool is_far(const Real* from) const {
#if __CUDA_ARCH__ >= 800
    return __isGlobal(from);
#else
    return false;
#endif
  }
  __device__ __forceinline__ void copy_far(const Real* from, Real* to) {
    __pipeline_memcpy_async(to, from, sizeof(Real));
  }
  __device__ __forceinline__ void wait_for_copies() {
    __pipeline_commit();
    __pipeline_wait_prior(0);
  }

 private:
  int log_size_, log_blocks_, block_, scratch_size_;
};

}  // namespace fastmaml::FM_ISA
