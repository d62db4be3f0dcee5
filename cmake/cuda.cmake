# The device kernels: every src/cuda/kernels_*.cu becomes a fat binary, which is embedded in the library
# as bytes and loaded through the driver. So nothing links with CUDA, and a build without nvcc has
# everything but the kernels.
#
# 108 kernels in three files: for the three architectures by nvcc 13.0, two to three minutes of one core per file.
#
#   TUTTI_CUDA                AUTO (where nvcc is found, not under sanitizers) | ON | OFF
#   TUTTI_CUDA_ARCHITECTURES  "80;90;100"; one (90) compiles in a third of the time. PTX of the last
#                             serves what comes later.
set(TUTTI_CUDA AUTO CACHE STRING "Build the device kernels: AUTO | ON | OFF")
set(TUTTI_CUDA_ARCHITECTURES "80;90;100" CACHE STRING "Compute capabilities to compile for")

set(TUTTI_HAVE_KERNELS OFF)
if(TUTTI_CUDA STREQUAL "AUTO" OR TUTTI_CUDA)
  find_program(TUTTI_NVCC nvcc PATHS /usr/local/cuda/bin /opt/cuda/bin)
  if(TUTTI_NVCC AND NOT (TUTTI_CUDA STREQUAL "AUTO" AND TUTTI_SANITIZE))
    set(TUTTI_HAVE_KERNELS ON)
  elseif(NOT TUTTI_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "TUTTI_CUDA=${TUTTI_CUDA}, but nvcc was not found")
  endif()
endif()

set(TUTTI_NVCC_FLAGS -std=c++20 -O3 -fmad=false --expt-relaxed-constexpr -Werror all-warnings
  -compress-mode=size -I${PROJECT_SOURCE_DIR} -I${PROJECT_SOURCE_DIR}/include)
foreach(arch ${TUTTI_CUDA_ARCHITECTURES})
  list(APPEND TUTTI_NVCC_FLAGS -gencode arch=compute_${arch},code=sm_${arch})
  set(TUTTI_LAST_ARCHITECTURE ${arch})
endforeach()
list(APPEND TUTTI_NVCC_FLAGS
  -gencode arch=compute_${TUTTI_LAST_ARCHITECTURE},code=compute_${TUTTI_LAST_ARCHITECTURE})

# tutti_fatbin(OUT SOURCE): OUT is made from SOURCE and whatever it includes. The PTX of every architecture
# stays beside it, as kernels_sum.compute_90.ptx: tests run it (tests/ptx).
function(tutti_fatbin out source)
  cmake_path(GET out PARENT_PATH folder)
  add_custom_command(OUTPUT ${out}
    COMMAND ${TUTTI_NVCC} -fatbin ${TUTTI_NVCC_FLAGS} --keep --keep-dir ${folder} -MD -MF ${out}.d -MT ${out} -o ${out} ${source}
    DEPENDS ${source} DEPFILE ${out}.d COMMENT "Compiling ${source} for devices" VERBATIM)
endfunction()

# tutti_embed_kernels(TARGET): adds the images (src/cuda/image.h) to a target.
function(tutti_embed_kernels target)
  set(TUTTI_KERNEL_TOOLKIT 0)
  set(images "")
  if(TUTTI_HAVE_KERNELS)
    execute_process(COMMAND ${TUTTI_NVCC} --version OUTPUT_VARIABLE version)
    string(REGEX MATCH "release ([0-9]+)\\.([0-9]+)" found "${version}")
    math(EXPR TUTTI_KERNEL_TOOLKIT "${CMAKE_MATCH_1} * 1000 + ${CMAKE_MATCH_2} * 10")
    foreach(family sum prod extremum)
      set(image ${PROJECT_BINARY_DIR}/cuda/kernels_${family}.fatbin)
      tutti_fatbin(${image} ${PROJECT_SOURCE_DIR}/src/cuda/kernels_${family}.cu)
      list(APPEND images ${image})
    endforeach()
    file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/cuda)
    message(STATUS "CUDA: kernels for ${TUTTI_CUDA_ARCHITECTURES} by ${TUTTI_NVCC}")
  else()
    message(STATUS "CUDA: no kernels in this build")
  endif()
  set(TUTTI_KERNEL_FOLDER ${PROJECT_BINARY_DIR}/cuda)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/kernel_images.cc.in ${PROJECT_BINARY_DIR}/cuda/kernel_images.cc @ONLY)
  set_source_files_properties(${PROJECT_BINARY_DIR}/cuda/kernel_images.cc PROPERTIES OBJECT_DEPENDS "${images}")
  target_sources(${target} PRIVATE ${PROJECT_BINARY_DIR}/cuda/kernel_images.cc)
endfunction()
