// Settings: every variable, its checks, its NCCL name, and what is misspelt.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "src/communicator/environment.h"

namespace tutti {
namespace {

TEST(Config, defaults_without_variables) {
  Config config = config_from({}).value();
  EXPECT_TRUE(config.transports.empty());
  EXPECT_EQ(config.init_timeout, 120);
  EXPECT_EQ(config.slot_bytes, 256u * 1024);
  EXPECT_TRUE(config.process_vm);
}

TEST(Config, every_variable_is_read) {
  Config config = config_from({{"TUTTI_TRANSPORTS", "shm,tcp"},
                               {"TUTTI_SOCKET_IFNAME", "eth"},
                               {"TUTTI_SOCKET_FAMILY", "AF_INET6"},
                               {"TUTTI_SOCKET_CONNECTIONS", "3"},
                               {"TUTTI_HOST_ID", "a host"},
                               {"TUTTI_PROCESS_VM", "0"},
                               {"TUTTI_INIT_TIMEOUT", "1.5"},
                               {"TUTTI_LATE_AFTER", "2"},
                               {"TUTTI_TIMEOUT", "0.25"},
                               {"TUTTI_TUNE", "all_reduce:0-inf:ring"},
                               {"TUTTI_DETERMINISTIC", "1"},
                               {"TUTTI_SLOT_BYTES", "64K"},
                               {"TUTTI_SPIN", "1000"},
                               {"TUTTI_FAULT", "delay=1"},
                               {"TUTTI_DEBUG", "INFO"},
                               {"TUTTI_DEBUG_FILE", "log.%r"}})
                      .value();
  EXPECT_EQ(config.transports, (std::vector<std::string>{"shm", "tcp"}));
  EXPECT_EQ(config.socket_interface, "eth");
  EXPECT_EQ(config.socket_family, "AF_INET6");
  EXPECT_EQ(config.socket_connections, 3u);
  EXPECT_EQ(config.host_id, "a host");
  EXPECT_FALSE(config.process_vm);
  EXPECT_EQ(config.init_timeout, 1.5);
  EXPECT_EQ(config.late_after, 2);
  EXPECT_EQ(config.timeout, 0.25);
  EXPECT_EQ(config.tune, "all_reduce:0-inf:ring");
  EXPECT_TRUE(config.deterministic);
  EXPECT_EQ(config.slot_bytes, 64u * 1024);
  EXPECT_EQ(config.spin, 1000u);
  EXPECT_EQ(config.fault, "delay=1");
  EXPECT_EQ(config.debug, "INFO");
  EXPECT_EQ(config.debug_file, "log.%r");
}

TEST(Config, nccl_names_are_second_to_ours) {
  Variables variables{{"NCCL_SOCKET_IFNAME", "ib"},
                      {"NCCL_SOCKET_FAMILY", "AF_INET"},
                      {"NCCL_HOSTID", "h"},
                      {"NCCL_DEBUG", "version"},
                      {"NCCL_DEBUG_FILE", "stderr"}};
  Config config = config_from(variables).value();
  EXPECT_EQ(config.socket_interface, "ib");
  EXPECT_EQ(config.socket_family, "AF_INET");
  EXPECT_EQ(config.host_id, "h");
  EXPECT_EQ(config.debug, "WARN");
  EXPECT_EQ(config.debug_file, "stderr");
  variables["TUTTI_SOCKET_IFNAME"] = "eth";
  EXPECT_EQ(config_from(variables)->socket_interface, "eth");
}

TEST(Config, nccl_switches) {
  Config config = config_from({{"NCCL_SHM_DISABLE", "1"},
                               {"NCCL_P2P_DISABLE", "1"},
                               {"NCCL_SOCKET_NTHREADS", "4"},
                               {"NCCL_NSOCKS_PERTHREAD", "2"},
                               {"NCCL_ALGO", "Tree"}})
                      .value();
  EXPECT_EQ(config.transports, (std::vector<std::string>{"local", "tcp"}));
  EXPECT_FALSE(config.process_vm);
  EXPECT_EQ(config.socket_connections, 8u);
  EXPECT_EQ(config.tune,
            "all_reduce:0-inf:double_binary_tree;broadcast:0-inf:double_binary_tree;"
            "reduce:0-inf:double_binary_tree");
  config = config_from({{"NCCL_SHM_DISABLE", "1"},
                        {"TUTTI_TRANSPORTS", "shm"},
                        {"NCCL_ALGO", "ring"},
                        {"TUTTI_TUNE", "all_reduce:0-inf:direct_one_shot"}})
               .value();
  EXPECT_EQ(config.transports, std::vector<std::string>{"shm"});
  EXPECT_EQ(config.tune, "all_reduce:0-inf:direct_one_shot");
}

TEST(Config, what_hosts_look_like) {
  const std::string path = testing::TempDir() + "/tutti_topo.xml";
  std::ofstream(path) << "<system version=\"1\"><cpu numaid=\"0\"/></system>\n";
  EXPECT_EQ(config_from({{"NCCL_TOPO_FILE", path}})->topology, path);
  EXPECT_EQ(config_from({{"NCCL_TOPO_FILE", path}, {"TUTTI_TOPO", "dgx2"}})->topology, "dgx2");
  ::unlink(path.c_str());
  // NCCL goes on without a file that is not there; so does tutti, and says so.
  EXPECT_EQ(config_from({{"NCCL_TOPO_FILE", path}})->topology, "");
  const std::vector<std::string> complaints = unknown_variables({{"NCCL_TOPO_FILE", path}});
  ASSERT_EQ(complaints.size(), 1u);
  EXPECT_EQ(complaints[0],
            "NCCL_TOPO_FILE=\"" + path + "\" cannot be read; the host's own view is used");

  EXPECT_EQ(config_from({{"TUTTI_TOPO", "gpu:8{bw=48GB/s}"}})->topology, "gpu:8{bw=48GB/s}");
  EXPECT_EQ(config_from({{"TUTTI_GPU", "00000000:0C:00.0"}})->gpu, "0000:0c:00.0");
  EXPECT_EQ(config_from({{"TUTTI_GPU", "gpu 7"}}).status().message(),
            "TUTTI_GPU=\"gpu 7\" is not a PCI bus id such as 0000:07:00.0");
  EXPECT_EQ(config_from({{"TUTTI_SWITCHES", "core.rack3"}})->switches, "core.rack3");
  const auto slurm = [](const char* address, const char* pattern) {
    return config_from({{"SLURM_TOPOLOGY_ADDR", address}, {"SLURM_TOPOLOGY_ADDR_PATTERN", pattern}})
        ->switches;
  };
  EXPECT_EQ(slurm("s0.s4.tux1", "switch.switch.node"), "s0.s4");
  EXPECT_EQ(slurm("a.b.c.d.e.tux1.cluster", "switch.switch.switch.switch.switch.node"), "b.c.d.e");
  EXPECT_EQ(slurm("tux1", "node"), "");
  EXPECT_EQ(slurm(".x.tux1", "switch.switch.node"), "");
  EXPECT_EQ(slurm("s0", "switch.switch.node"), "s0");
}

TEST(Config, nccl_algorithms) {
  EXPECT_EQ(tune_from_nccl("allreduce:tree;broadcast:ring", ""),
            "all_reduce:0-inf:double_binary_tree;broadcast:0-inf:ring");
  EXPECT_EQ(tune_from_nccl("NVLS,Ring;allreduce:Tree", ""),
            "all_reduce:0-inf:double_binary_tree;broadcast:0-inf:ring;reduce:0-inf:ring;"
            "all_gather:0-inf:ring;reduce_scatter:0-inf:ring");
  EXPECT_EQ(tune_from_nccl("^tree", ""), "");
  EXPECT_EQ(tune_from_nccl("collnet", ""), "");
  EXPECT_EQ(tune_from_nccl("", ""), "");
  EXPECT_EQ(tune_from_nccl(";;:,", ""), "");
}

TEST(Config, nccl_protocols) {
  EXPECT_EQ(tune_from_nccl("", "allreduce:LL"), "all_reduce:0-inf:auto/packets");
  EXPECT_EQ(tune_from_nccl("allreduce:ring;broadcast:tree", "allreduce:Simple;reduce:LL128"),
            "all_reduce:0-inf:ring/slots;broadcast:0-inf:double_binary_tree;"
            "reduce:0-inf:auto/packets");
  EXPECT_EQ(tune_from_nccl("", "allreduce:^LL,LL128"), "all_reduce:0-inf:auto/slots");
  for (const char* any : {"^LL", "LL,Simple", "foo", "^", ";;:,"})
    EXPECT_EQ(tune_from_nccl("", any), "") << any;
}

TEST(Config, nccl_settings_in_a_file) {
  const std::string path = testing::TempDir() + "/tutti_nccl.conf";
  std::ofstream(path) << "# comment\nNCCL_HOSTID=from file\n NCCL_DEBUG = INFO \nHOME=nowhere\n"
                      << "no value\nNCCL_SOCKET_FAMILY=AF_INET6\n";
  ::setenv("NCCL_CONF_FILE", path.c_str(), 1);
  ::setenv("NCCL_SOCKET_FAMILY", "AF_INET", 1);
  const Variables variables = read_environment();
  ::unsetenv("NCCL_CONF_FILE");
  ::unsetenv("NCCL_SOCKET_FAMILY");
  ::unlink(path.c_str());
  EXPECT_EQ(variables.at("NCCL_HOSTID"), "from file");
  EXPECT_EQ(variables.at("NCCL_DEBUG"), "INFO");
  EXPECT_EQ(variables.at("NCCL_SOCKET_FAMILY"), "AF_INET") << "the environment wins";
  EXPECT_NE(variables.count("HOME") != 0 ? variables.at("HOME") : "", "nowhere");
}

TEST(Config, bad_values_name_the_variable_and_the_value) {
  for (auto [name, value] : {std::pair{"TUTTI_TRANSPORTS", "shm,pigeon"},
                             {"TUTTI_TRANSPORTS", "shm,"},
                             {"TUTTI_SOCKET_FAMILY", "AF_UNIX"},
                             {"TUTTI_SOCKET_CONNECTIONS", "0"},
                             {"TUTTI_SOCKET_CONNECTIONS", "99999999999999999999"},
                             {"TUTTI_PROCESS_VM", "yes"},
                             {"TUTTI_INIT_TIMEOUT", "0"},
                             {"TUTTI_INIT_TIMEOUT", "-1"},
                             {"TUTTI_INIT_TIMEOUT", "nan"},
                             {"TUTTI_LATE_AFTER", "soon"},
                             {"TUTTI_TIMEOUT", "1s"},
                             {"TUTTI_DETERMINISTIC", "2"},
                             {"TUTTI_SLOT_BYTES", "12"},
                             {"TUTTI_SLOT_BYTES", "64KB"},
                             {"TUTTI_SLOT_BYTES", "99999999999999999G"},
                             {"TUTTI_SPIN", "-5"},
                             {"TUTTI_DEBUG", "LOUD"},
                             {"NCCL_DEBUG", "LOUD"},
                             {"NCCL_SOCKET_FAMILY", "6"}}) {
    Status status = config_from({{name, value}}).status();
    EXPECT_EQ(status.code(), Code::invalid_argument) << name << "=" << value;
    EXPECT_NE(status.message().find(std::string(name) + "=\"" + value + "\""), std::string::npos)
        << status.message();
  }
}

TEST(Config, unknown_variables_with_a_suggestion) {
  auto complaints = unknown_variables({{"TUTTI_SOKET_IFNAME", "x"},
                                       {"TUTTI_RANK", "0"},
                                       {"TUTTI_SOMETHING_ELSE_ENTIRELY", "1"},
                                       {"OTHER", "1"}});
  ASSERT_EQ(complaints.size(), 2u);
  EXPECT_EQ(complaints[0],
            "TUTTI_SOKET_IFNAME is not a setting of tutti; did you mean TUTTI_SOCKET_IFNAME?");
  EXPECT_EQ(complaints[1], "TUTTI_SOMETHING_ELSE_ENTIRELY is not a setting of tutti");
}

}  // namespace
}  // namespace tutti
