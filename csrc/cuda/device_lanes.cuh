// The lanes of a thread block on the device (team/team_block.h).
#pragma once

#include <cuda_pipeline.h>

#include "../team/team_block.h"

namespace fastmaml::FM_ISA {

// A block's shared memory: scratch memory, the image of the call, fast memory.
extern __shared__ double2 shared_memory[];

template <class Real>
class DeviceLanes {
 public:
  FM_HD explicit DeviceLanes(int scratch_size) : scratch_size_(scratch_size) {}

  __device__ __forceinline__ int rank() const { return threadIdx.x; }
  __device__ __forceinline__ int size() const { return blockDim.x; }
  __device__ __forceinline__ void sync() { __syncthreads(); }
  __device__ __forceinline__ Real* scratch() { return reinterpret_cast<Real*>(shared_memory); }
  FM_HD int scratch_size() const { return scratch_size_; }

  // Asynchronous from global memory; the other is read at once.
  __device__ __forceinline__ void copy(const Real* from, Real* to) {
#if __CUDA_ARCH__ >= 800
    if (__isGlobal(from)) {
      __pipeline_memcpy_async(to, from, sizeof(Real));
      return;
    }
#endif
    *to = *from;
  }
  __device__ __forceinline__ void wait_for_copies() {
    __pipeline_commit();
    __pipeline_wait_prior(0);
  }

 private:
  int scratch_size_;
};

}  // namespace fastmaml::FM_ISA
