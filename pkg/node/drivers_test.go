package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What each driver of minikube 1.38 leaves in machines/<name>/config.json (its structs Driver below
// pkg/drivers), and what it puts into the kubeconfig (ControlPlaneEndpoint in
// pkg/minikube/driver/endpoint.go).
var driverFiles = map[string]string{
	// BaseDriver and CommonDriver have these in every file.
	"base": `"MachineName": "m", "SSHUser": "docker", "StorePath": %q, "SwarmMaster": false, "SwarmHost": "",
		"SwarmDiscovery": "", "CommandOptions": {"NonInteractive": false, "DownloadOnly": false}, `,
	"qemu2": `"IPAddress": "127.0.0.1", "SSHPort": 49501, "SSHKeyPath": "", "EnginePort": 49502, "FirstQuery": true,
		"Memory": 4000, "DiskSize": 20000, "CPU": 2, "Program": "qemu-system-aarch64", "BIOS": false,
		"CPUType": "host", "MachineType": "virt", "Network": "builtin", "PrivateNetwork": "docker-machines",
		"MACAddress": "52:cd:aa:0b:0c:0d", "ExtraDisks": 0`,
	"qemu2 socket_vmnet": `"IPAddress": "192.168.105.4", "SSHPort": 22, "SSHKeyPath": "", "EnginePort": 2376,
		"FirstQuery": true, "Network": "socket_vmnet", "SocketVMNetPath": "/opt/homebrew/var/run/socket_vmnet",
		"SocketVMNetClientPath": "/opt/homebrew/opt/socket_vmnet/bin/socket_vmnet_client"`,
	"vfkit": `"IPAddress": "192.168.64.3", "SSHPort": 22, "SSHKeyPath": "", "Boot2DockerURL": "file:///iso",
		"DiskSize": 20000, "CPU": 2, "Memory": 6000, "ExtraDisks": 0, "VirtiofsMounts": null, "Network": "nat",
		"MACAddress": "5a:94:ef:e4:0c:ee", "VmnetHelper": null, "Rosetta": false`,
	"vfkit vmnet-shared": `"IPAddress": "192.168.105.7", "SSHPort": 22, "SSHKeyPath": "", "Network": "vmnet-shared",
		"MACAddress": "", "VmnetHelper": {"MachineDir": "/m", "InterfaceID": "e5e7ab7e", "Offloading": false}`,
	"krunkit": `"IPAddress": "192.168.105.9", "SSHPort": 22, "SSHKeyPath": "", "DiskSize": 20000, "CPU": 2,
		"Memory": 6000, "MACAddress": "", "VmnetHelper": {"MachineDir": "/m", "InterfaceID": "1", "Offloading": true}`,
	"hyperkit": `"IPAddress": "192.168.64.2", "SSHPort": 0, "SSHKeyPath": "", "DiskSize": 20000, "NFSShares": [],
		"UUID": "c7b6a4b0", "VpnKitSock": "", "VSockPorts": []`,
	"virtualbox": `"IPAddress": "192.168.59.100", "SSHPort": 49503, "SSHKeyPath": "/keys/box", "VBoxManager": {},
		"HostInterfaces": {}, "HostOnlyCIDR": "192.168.59.1/24"`,
	"parallels": `"IPAddress": "10.211.55.5", "SSHPort": 22, "SSHKeyPath": "/keys/parallels"`,
	"kvm2":      `"IPAddress": "192.168.39.7", "SSHPort": 22, "SSHKeyPath": "", "Network": "default"`,
	"ssh":       `"IPAddress": "198.51.100.7", "SSHPort": 2222, "SSHKeyPath": "/keys/far", "EnginePort": 2376`,
}

func TestDrivers(t *testing.T) {
	for _, test := range []struct {
		machine string // of driverFiles: the driver, and what else makes a difference
		profile string // of the profile's config.json
		ip      string // of its node
		server  string // in the kubeconfig
		ssh     string // where its ssh server is, and the key
		docker  string // where its Docker is
		own     bool   // whether the address is proof of a cluster on this machine
	}{
		{"qemu2", `"Network": "builtin", "APIServerPort": 49504`, "127.0.0.1", "https://localhost:49504",
			"127.0.0.1:49501 HOME/machines/m/id_rsa", "127.0.0.1:49502", false}, // see TestOriginBehindATunnel
		{"qemu2 socket_vmnet", `"Network": "socket_vmnet", "APIServerPort": 8443`, "192.168.105.4",
			"https://192.168.105.4:8443", "192.168.105.4:22 HOME/machines/m/id_rsa", "192.168.105.4:2376", true},
		{"vfkit", `"Network": "nat", "APIServerPort": 8443`, "192.168.64.3", "https://192.168.64.3:8443",
			"192.168.64.3:22 HOME/machines/m/id_rsa", "192.168.64.3:2376", true},
		{"vfkit vmnet-shared", `"Network": "vmnet-shared", "APIServerPort": 8443`, "192.168.105.7",
			"https://192.168.105.7:8443", "192.168.105.7:22 HOME/machines/m/id_rsa", "192.168.105.7:2376", true},
		{"krunkit", `"Network": "vmnet-shared", "APIServerPort": 8443`, "192.168.105.9",
			"https://192.168.105.9:8443", "192.168.105.9:22 HOME/machines/m/id_rsa", "192.168.105.9:2376", true},
		{"hyperkit", `"APIServerPort": 8443`, "192.168.64.2", "https://192.168.64.2:8443",
			"192.168.64.2:22 HOME/machines/m/id_rsa", "192.168.64.2:2376", true},
		{"virtualbox", `"APIServerPort": 8443`, "192.168.59.100", "https://192.168.59.100:8443",
			"127.0.0.1:49503 /keys/box", "192.168.59.100:2376", true},
		{"parallels", `"APIServerPort": 8443`, "10.211.55.5", "https://10.211.55.5:8443",
			"10.211.55.5:22 /keys/parallels", "10.211.55.5:2376", true},
		{"kvm2", `"APIServerPort": 8443`, "192.168.39.7", "https://192.168.39.7:8443",
			"192.168.39.7:22 HOME/machines/m/id_rsa", "192.168.39.7:2376", true},
		{"ssh", `"APIServerPort": 8443`, "198.51.100.7", "https://198.51.100.7:8443",
			"198.51.100.7:2222 /keys/far", "198.51.100.7:2376", false},
	} {
		t.Run(test.machine, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "my home", ".minikube") // with a space
			t.Setenv("MINIKUBE_HOME", dir)
			driver, _, _ := strings.Cut(test.machine, " ")
			for file, content := range map[string]string{
				"machines/m/config.json": fmt.Sprintf(`{"ConfigVersion": 3, "Driver": {`+driverFiles["base"]+"%s"+
					`}, "DriverName": %q, "Name": "m"}`, dir, driverFiles[test.machine], driver),
				"profiles/m/config.json": fmt.Sprintf(`{"Name": "m", "Driver": %q, %s,
					"KubernetesConfig": {"ContainerRuntime": "docker", "APIServerName": "minikubeCA"},
					"Nodes": [{"Name": "", "IP": %q, "Port": 8443, "ControlPlane": true, "Worker": true}]}`,
					driver, test.profile, test.ip),
			} {
				path := filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			found, err := Find(t.Context(), "m", test.server, nil, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			want := "m docker ssh docker@" + strings.Replace(test.ssh, "HOME", dir, 1) + ": minikube ssh -p m -n m -- sudo"
			if got := describe(t, found); got != want {
				t.Errorf("%s, not %s", got, want)
			}
			if docker, err := found.nodes[0].docker(t.Context()); err != nil || docker != test.docker {
				t.Errorf("Docker at %s, %v, not %s", docker, err, test.docker)
			}
			if got := found.Origin() == (Origin{"minikube", "m"}); got != test.own {
				t.Errorf("origin %+v", found.Origin())
			}
		})
	}
}

// The ssh connection to a machine that minikube reaches by a forwarded port, as its files say.
func TestForwardedMachine(t *testing.T) {
	key := filepath.Join(t.TempDir(), "a key")
	newKey(t, key)
	server := newSSHServerFor(t, key, t.TempDir())
	address, err := server.transport().locate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(address, ":")
	home(t, map[string]string{
		"profiles/m/config.json": `{"Name": "m", "Driver": "qemu2", "Network": "builtin", "APIServerPort": 49504,
			"KubernetesConfig": {"ContainerRuntime": "docker"}, "Nodes": [{"IP": "127.0.0.1", "Port": 8443}]}`,
		"machines/m/config.json": fmt.Sprintf(`{"Driver": {"IPAddress": "127.0.0.1", "SSHUser": "docker",
			"SSHPort": %s, "SSHKeyPath": %q}}`, port, key),
	})
	found, err := Find(t.Context(), "m", "https://localhost:49504", nil, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	if said, err := found.nodes[0].run(t.Context(), "echo", "from the machine"); err != nil ||
		strings.TrimSpace(said) != "from the machine" {
		t.Errorf("%q, %v", said, err)
	}
}
