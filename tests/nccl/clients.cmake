# Programs that know only NCCL: built against this header, and against NVIDIA's where there is one.
enable_language(C)
foreach(language c cpp)
  set(extension ${language})
  if(language STREQUAL "cpp")
    set(extension cc)
  endif()
  add_executable(nccl_client_${language} nccl/client_${language}.${extension})
  target_link_libraries(nccl_client_${language} PRIVATE nccl)
endforeach()
add_executable(nccl_path_client nccl/path_client.c)
target_link_libraries(nccl_path_client PRIVATE ${CMAKE_DL_LIBS})
add_library(nccl_foreign SHARED nccl/foreign.c)
set_target_properties(nccl_foreign PROPERTIES OUTPUT_NAME nccl SOVERSION 2 C_VISIBILITY_PRESET default
                      LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib/foreign)
add_dependencies(test_nccl nccl_client_c nccl_client_cpp nccl_path_client nccl_foreign nccl_audit
                 run_program)

# TUTTI_FOREIGN_NCCL: a folder with NVIDIA's nccl.h and CUDA's headers.
file(GLOB cuda_folders /usr/local/cuda*/include)
find_path(TUTTI_FOREIGN_NCCL NAMES nccl.h PATHS ${cuda_folders} NO_DEFAULT_PATH)
if(TUTTI_FOREIGN_NCCL)
  add_executable(nccl_client_foreign nccl/client_cpp.cc)
  set_target_properties(nccl_client_foreign PROPERTIES
    INCLUDE_DIRECTORIES "${TUTTI_FOREIGN_NCCL};${PROJECT_SOURCE_DIR}")
  target_link_libraries(nccl_client_foreign PRIVATE nccl)
  add_dependencies(test_nccl nccl_client_foreign)
endif()

# What stands for a real NCCL in the tests of TUTTI_NCCL_FALLBACK, and an old release of it.
foreach(name fake fake_partial)
  add_library(nccl_${name} SHARED nccl/fake_nccl.c)
  set_target_properties(nccl_${name} PROPERTIES OUTPUT_NAME nccl SOVERSION 2 C_STANDARD 11 C_VISIBILITY_PRESET default
                        LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib/${name})
  target_compile_definitions(nccl_${name} PRIVATE TUTTI_NCCL_WITHOUT_CUDA)
  target_link_libraries(nccl_${name} PRIVATE rt)
  add_dependencies(test_nccl nccl_${name})
endforeach()
target_compile_definitions(nccl_fake_partial PRIVATE FAKE_PARTIAL)
add_executable(nccl_fallback_client nccl/fallback_client.c)
target_link_libraries(nccl_fallback_client PRIVATE nccl)
add_dependencies(test_nccl nccl_fallback_client)

# A benchmark in the shape of others, on a CUDA runtime without a device. It is built against NVIDIA's
# headers and library where they are, and never told of this one.
find_path(TUTTI_CUDART_HEADERS NAMES cuda_runtime_api.h PATHS ${cuda_folders} NO_DEFAULT_PATH)
find_library(TUTTI_FOREIGN_NCCL_LIBRARY NAMES libnccl.so.2 NO_DEFAULT_PATH
  PATHS ${TUTTI_FOREIGN_NCCL}/../lib64 ${TUTTI_FOREIGN_NCCL}/../lib)
add_library(nccl_cudart_stand_in SHARED nccl/cudart_stand_in.c)
set_target_properties(nccl_cudart_stand_in PROPERTIES OUTPUT_NAME cudart SOVERSION 13 C_STANDARD 11
                      C_VISIBILITY_PRESET default LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib/cudart)
add_executable(nccl_foreign_perf nccl/foreign_perf.c)
set_target_properties(nccl_foreign_perf PROPERTIES C_STANDARD 11 SKIP_BUILD_RPATH ON)
target_link_libraries(nccl_foreign_perf PRIVATE nccl_cudart_stand_in Threads::Threads)
if(TUTTI_CUDART_HEADERS)
  target_include_directories(nccl_cudart_stand_in SYSTEM PRIVATE ${TUTTI_CUDART_HEADERS})
endif()
if(TUTTI_FOREIGN_NCCL AND TUTTI_CUDART_HEADERS AND TUTTI_FOREIGN_NCCL_LIBRARY)
  set_target_properties(nccl_foreign_perf PROPERTIES
    INCLUDE_DIRECTORIES "${TUTTI_FOREIGN_NCCL};${TUTTI_CUDART_HEADERS};${PROJECT_SOURCE_DIR}")
  target_link_libraries(nccl_foreign_perf PRIVATE ${TUTTI_FOREIGN_NCCL_LIBRARY})
else()
  target_link_libraries(nccl_foreign_perf PRIVATE nccl)
endif()
add_dependencies(test_nccl nccl_foreign_perf)
