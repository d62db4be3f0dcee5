// Discovery on trees that the test writes, with stand-ins for hwloc and NVML.
#include "topology/discover.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

namespace tutti {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::HasSubstr;

// A sysfs of our own, removed at the end.
class Tree {
 public:
  Tree() {
    char path[] = "/tmp/tutti-sysfs-XXXXXX";
    root_ = mkdtemp(path);
  }
  ~Tree() {
    std::error_code error;
    fs::remove_all(root_, error);
  }
  std::string root() const { return root_.string(); }
  void file(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text << "\n";
  }
  void link(const std::string& path, const std::string& to) const {
    fs::create_directories((root_ / path).parent_path());
    fs::create_directories(root_ / to);
    fs::create_symlink(root_ / to, root_ / path);
  }
  // A PCI function under its bridges, `path` below devices/.
  void pci(const std::string& path, const std::string& cls, const std::string& vendor, int numa,
           const std::string& speed = "16.0 GT/s PCIe", const std::string& width = "16") const {
    const std::string at = "devices/" + path;
    file(at + "/class", cls);
    file(at + "/vendor", vendor);
    file(at + "/device", "0x1234");
    file(at + "/numa_node", std::to_string(numa));
    file(at + "/max_link_speed", speed);
    file(at + "/max_link_width", width);
    link("bus/pci/devices/" + fs::path(path).filename().string(), at);
  }
  void interface(const std::string& name, const std::string& device, const std::string& speed,
                 const std::string& state = "up", const std::string& type = "1") const {
    const std::string at = "class/net/" + name;
    file(at + "/type", type);
    file(at + "/operstate", state);
    if (!speed.empty()) file(at + "/speed", speed);
    if (!device.empty()) link(at + "/device", "devices/" + device);
  }

 private:
  fs::path root_;
};

// Two sockets, a PCI switch with two GPUs and an InfiniBand card, a RoCE card of two ports on the
// other socket, a console, a loopback and a bridge.
void write_server(const Tree& t) {
  for (int node : {0, 1}) {
    const std::string cpus = node == 0 ? "0-1,4-5" : "2-3,6-7";
    t.file("devices/system/node/node" + std::to_string(node) + "/cpulist", cpus);
  }
  for (int cpu = 0; cpu < 8; ++cpu) {
    const std::string at = "devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    t.file(at + "physical_package_id", std::to_string(cpu % 4 / 2));
    t.file(at + "thread_siblings_list",
           std::to_string(cpu % 4) + "," + std::to_string(cpu % 4 + 4));
  }
  const std::string root = "pci0000:00/0000:00:01.0", up = root + "/0000:01:00.0";
  t.pci(root, "0x060400", "0x8086", 0, "16.0 GT/s PCIe", "16");
  t.pci(up, "0x060400", "0x10b5", 0, "16.0 GT/s PCIe", "16");
  for (const auto& [port, device, cls, vendor] : {std::tuple{"02", "03", "0x030200", "0x10de"},
                                                  {"04", "05", "0x030200", "0x10de"},
                                                  {"06", "07", "0x020700", "0x15b3"}}) {
    const std::string down = up + "/0000:" + port + ":00.0";
    t.pci(down, "0x060400", "0x10b5", 0, "16.0 GT/s PCIe", "16");
    t.pci(down + "/0000:" + device + ":00.0", cls, vendor, 0, "32.0 GT/s PCIe", "16");
  }
  t.pci("pci0000:80/0000:80:01.0/0000:81:00.0", "0x020000", "0x15b3", 1, "8.0 GT/s PCIe", "8");
  t.pci("pci0000:00/0000:00:1f.0", "0x030000", "0x1a03", 0, "Unknown", "0");
  const std::string ib = up + "/0000:06:00.0/0000:07:00.0";
  t.link("class/infiniband/mlx5_0/device", "devices/" + ib);
  t.file("class/infiniband/mlx5_0/node_guid", "0002:c903:0000:0001");
  t.file("class/infiniband/mlx5_0/ports/1/rate", "200 Gb/sec (4X HDR)");
  t.file("class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE");
  t.interface("ib0", ib, "200000", "up", "32");
  const std::string roce = "pci0000:80/0000:80:01.0/0000:81:00.0";
  t.link("class/infiniband/mlx5_1/device", "devices/" + roce);
  for (int port : {1, 2}) {
    const std::string at = "class/infiniband/mlx5_1/ports/" + std::to_string(port);
    t.file(at + "/rate", "100 Gb/sec (4X EDR)");
    t.file(at + "/state", port == 1 ? "4: ACTIVE" : "1: DOWN");
  }
  t.interface("eth0", roce, "100000");
  t.interface("lo", "", "", "unknown", "772");
  t.interface("br0", "", "10000");
  fs::create_directories(fs::path(t.root()) / "class/net/br0/bridge");
}

DiscoverOptions options(const Tree& t) {
  DiscoverOptions o;
  o.sysfs = t.root();
  o.cpuinfo = t.root() + "/cpuinfo";
  o.name = "box";
  return o;
}

const Part* find(const Machine& m, std::string_view name) {
  for (const Part& p : m.parts)
    if (p.name == name) return &p;
  return nullptr;
}

TEST(Discover, ReadsAServer) {
  Tree t;
  write_server(t);
  t.file("cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 106\n");
  const Machine m = discover(options(t));
  EXPECT_EQ(m.count(NodeKind::numa), 2u);  // one in each package: no level of its own
  EXPECT_EQ(m.count(NodeKind::cpu), 4u);   // threads are not cores
  EXPECT_EQ(m.count(NodeKind::gpu), 2u);
  ASSERT_NE(find(m, "numa0"), nullptr);
  EXPECT_EQ(find(m, "numa0")->cpus, "0-1,4-5");
  EXPECT_EQ(find(m, "numa0")->model, 106);
  const Part* gpu = find(m, "gpu0");
  ASSERT_NE(gpu, nullptr);
  EXPECT_EQ(gpu->busid, "0000:03:00.0");
  // As slow as the slower end of its link.
  EXPECT_NEAR(gpu->bandwidth, 31.5e9, 0.1e9);
  const Part* ib = find(m, "mlx5_0");
  ASSERT_NE(ib, nullptr);
  EXPECT_DOUBLE_EQ(ib->port_bandwidth, 25e9);
  EXPECT_EQ(ib->interface, "ib0");
  EXPECT_EQ(ib->guid, "0002:c903:0000:0001");
  // The bridges that join nothing are gone; GPUs and card hang on the switch.
  EXPECT_EQ(gpu->parent, ib->parent);
  EXPECT_EQ(m.parts[gpu->parent].busid, "0000:01:00.0");
  EXPECT_EQ(m.parts[m.parts[gpu->parent].parent].name, "numa0");
  ASSERT_NE(find(m, "mlx5_1:1"), nullptr);
  EXPECT_TRUE(find(m, "mlx5_1:1")->up);
  EXPECT_FALSE(find(m, "mlx5_1:2")->up);
  EXPECT_EQ(m.parts[find(m, "mlx5_1:2")->parent].kind, NodeKind::pci_switch);  // the card
  EXPECT_THAT(m.missing, Contains(HasSubstr("mlx5_1:2: carries nothing (state: 1: DOWN)")));
  EXPECT_EQ(find(m, "br0"), nullptr);
  EXPECT_EQ(find(m, "lo"), nullptr);
  const Result<Topology> topology = build_topology({m});
  ASSERT_TRUE(topology.ok()) << topology.status().message();
  EXPECT_EQ(topology->nodes()[topology->exit_of(0)].name, "mlx5_0");
}

TEST(Discover, SaysWhatItCouldNotFindOut) {
  Tree t;
  for (int node : {0, 1})
    t.file("devices/system/node/node" + std::to_string(node) + "/cpulist", std::to_string(node));
  t.pci("pci0000:00/0000:00:03.0", "0x020000", "0x1af4", -1, "Unknown", "0");
  t.interface("eth0", "pci0000:00/0000:00:03.0/virtio1", "-1");
  const Machine m = discover(options(t));
  ASSERT_NE(find(m, "eth0"), nullptr);
  EXPECT_EQ(find(m, "eth0")->port_bandwidth, 0);
  EXPECT_EQ(find(m, "eth0")->bandwidth, 0);
  EXPECT_THAT(m.missing, Contains(HasSubstr("eth0: its speed (the kernel says -1)")));
  EXPECT_THAT(m.missing, Contains("eth0: its NUMA node (the kernel says -1)"));
  std::vector<std::string> assumed;
  ASSERT_TRUE(build_topology({m}, {}, &assumed).ok());
  EXPECT_THAT(assumed, Contains(HasSubstr("eth0: its speed was not found out; 10 Gb/s assumed")));
}

TEST(Discover, AnEmptyTreeIsStillAHost) {
  Tree t;
  const Machine m = discover(options(t));
  EXPECT_THAT(m.missing, Contains(HasSubstr("NUMA nodes: the kernel shows none; one assumed")));
  const Result<Topology> topology = build_topology({m});
  ASSERT_TRUE(topology.ok()) << topology.status().message();
  EXPECT_EQ(topology->ranks(), 1u);
}

TEST(Discover, VirtualInterfacesAreTheLastWayOut) {
  Tree t;
  t.interface("veth0", "", "10000");
  const Machine m = discover(options(t));
  ASSERT_NE(find(m, "veth0"), nullptr);
  EXPECT_THAT(m.missing, Contains(HasSubstr("veth0: the card behind it")));
}

// NVML of a machine with two GPUs, which are the tree's, and one NVSwitch.
namespace fake {
int broken_device = -1;
int ok() { return 0; }
const char* error_string(int error) { return error == 9 ? "Driver Not Loaded" : "Unknown Error"; }
int no_driver() { return 9; }
int count(unsigned* n) {
  *n = 2;
  return 0;
}
int handle(unsigned i, NvmlDevice* d) {
  if (static_cast<int>(i) == broken_device) return 3;
  *d = reinterpret_cast<NvmlDevice>(static_cast<uintptr_t>(i + 1));
  return 0;
}
unsigned index_of(NvmlDevice d) {
  return static_cast<unsigned>(reinterpret_cast<uintptr_t>(d) - 1);
}
int pci(NvmlDevice d, NvmlPciInfo* info) {
  info->domain = 0;
  info->bus = index_of(d) == 0 ? 0x05 : 0x03;  // not in the order of the bus
  info->device = 0;
  std::strcpy(info->bus_id, index_of(d) == 0 ? "00000000:05:00.0" : "00000000:03:00.0");
  return 0;
}
int capability(NvmlDevice, int* major, int* minor) {
  *major = 8;
  *minor = 0;
  return 0;
}
int state(NvmlDevice, unsigned link, unsigned* active) {
  if (link >= 12) return 2;
  *active = link != 11;
  return 0;
}
int remote(NvmlDevice d, unsigned link, NvmlPciInfo* info) {
  if (link >= 8) {  // a switch
    info->bus = 0xc0;
    std::strcpy(info->bus_id, "00000000:C0:00.0");
    return 0;
  }
  return pci(reinterpret_cast<NvmlDevice>(static_cast<uintptr_t>(2 - index_of(d))), info);
}
int remote_type(NvmlDevice, unsigned link, unsigned* type) {
  *type = link >= 8 ? 2 : 0;
  return 0;
}
int generation(NvmlDevice, unsigned* g) {
  *g = 4;
  return 0;
}
int width(NvmlDevice, unsigned* w) {
  *w = 16;
  return 0;
}
NvmlDriver driver() {
  return {ok,         ok,    error_string, count,       handle,     pci,
          capability, state, remote,       remote_type, generation, width};
}
}  // namespace fake

TEST(Nvml, AddsNumbersAndLinks) {
  Tree t;
  write_server(t);
  const NvmlDriver driver = fake::driver();
  DiscoverOptions o = options(t);
  o.nvml = &driver;
  const Machine m = discover(o);
  ASSERT_NE(find(m, "gpu0"), nullptr);
  EXPECT_EQ(find(m, "gpu0")->busid, "0000:05:00.0");
  EXPECT_EQ(find(m, "gpu0")->sm, 80);
  ASSERT_EQ(m.links.size(), 4u);
  double direct = 0, to_switch = 0;
  for (const FastLink& l : m.links)
    (l.to == FastLink::k_switch ? to_switch : direct) += l.bandwidth;
  EXPECT_DOUBLE_EQ(direct, 2 * 8 * 25e9);
  EXPECT_DOUBLE_EQ(to_switch, 2 * 3 * 25e9);  // one is down
  const Result<Topology> topology = build_topology({m});
  ASSERT_TRUE(topology.ok()) << topology.status().message();
  EXPECT_EQ(topology->ranks(), 2u);
}

TEST(Nvml, FailuresAreReported) {
  Tree t;
  write_server(t);
  NvmlDriver driver = fake::driver();
  driver.init = fake::no_driver;
  DiscoverOptions o = options(t);
  o.nvml = &driver;
  EXPECT_THAT(discover(o).missing, Contains("GPUs: NVML does not start: Driver Not Loaded"));
  driver = fake::driver();
  fake::broken_device = 1;
  EXPECT_THAT(discover(o).missing, Contains("gpu1: NVML: Unknown Error"));
  fake::broken_device = -1;
}

// hwloc that says what the test wants.
namespace fake {
std::string xml;
int loads = 0;
int init(void** t) {
  *t = &xml;
  return 0;
}
int filter(void*, int) { return 0; }
int load(void*) { return loads; }
int export_xml(void*, char** text, int* length, unsigned long) {
  *text = strdup(xml.c_str());
  *length = static_cast<int>(xml.size()) + 1;  // hwloc counts the end
  return 0;
}
void free_xml(void*, char* text) { free(text); }
void destroy(void*) {}
}  // namespace fake

TEST(Hwloc, IsAskedFirstAndItsFailureIsSaid) {
  Tree t;
  write_server(t);
  const HwlocDriver driver{fake::init,       fake::filter,   fake::load,
                           fake::export_xml, fake::free_xml, fake::destroy};
  DiscoverOptions o = options(t);
  o.hwloc = &driver;
  fake::xml =
      R"(<topology version="2.0"><object type="Machine" cpuset="0xff"><object type="Package" os_index="0" cpuset="0xff">
    <object type="NUMANode" os_index="0" cpuset="0xff"/><object type="Core" cpuset="0x1"/></object></object></topology>)";
  const Machine m = discover(o);
  EXPECT_EQ(m.count(NodeKind::numa), 1u);  // hwloc's word, not the tree's
  EXPECT_EQ(m.count(NodeKind::gpu), 2u);   // the rest comes from sysfs all the same
  ASSERT_NE(find(m, "mlx5_0"), nullptr);
  fake::xml = "<oops>";
  EXPECT_THAT(discover(o).missing,
              Contains(HasSubstr("what hwloc sees (hwloc: line 1, column 7: expected </oops>")));
  EXPECT_EQ(discover(o).count(NodeKind::numa), 2u);
  fake::loads = -1;
  EXPECT_THAT(discover(o).missing, Contains(HasSubstr("hwloc does not see the machine")));
  fake::loads = 0;
}

TEST(Discover, ThisMachine) {
  const Machine m = discover_all();
  EXPECT_GE(m.count(NodeKind::numa), 1u);
  EXPECT_GE(m.count(NodeKind::cpu), 1u);
  std::vector<std::string> assumed;
  const Result<Topology> t = build_topology({m}, {Endpoints::cores, {}, 0, true}, &assumed);
  ASSERT_TRUE(t.ok()) << t.status().message();
  EXPECT_GE(t->ranks(), 1u);
}

}  // namespace
}  // namespace tutti
