// The kernel of one call: that of all calls (kernels.cuh), with the ops, their sizes and the number
// of lanes as constants, which `compiled_source` writes in front of this in the namespace `known`.
#pragma once

#include "kernels.cuh"

namespace fastmaml::FM_ISA {

extern "C" __global__ void __launch_bounds__(1 << known::log_lanes, known::blocks_together)
    run_compiled(const __grid_constant__ Image<known::image_capacity> image, int image_size,
                 int scratch_size) {
  run_block<known::Real>(image.bytes, image_size, scratch_size);
}

}  // namespace fastmaml::FM_ISA
