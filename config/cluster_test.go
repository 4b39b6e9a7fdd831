package config

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
)

const (
	redisTable   = "[cache.redis]\nurl = \"redis://127.0.0.1:6379/0\"\n"
	clusterTable = redisTable + "[cluster]\nsecret = \"0123456789abcdef0123456789abcdef\"\n"
)

func TestCluster(t *testing.T) {
	c := mustLoad(t, clusterTable+docker)
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if c.Cluster.PeerPort != 8001 || c.Cluster.Lease != 10*time.Second || c.Cluster.Advertise != "" {
		t.Errorf("%+v", c.Cluster)
	}
	if printed := effective(t, c); strings.Contains(printed, "0123456789abcdef") || !strings.Contains(printed, "[cluster]") {
		t.Errorf("printed:\n%s", printed)
	}
	if mustLoad(t, redisTable+docker).Cluster != nil {
		t.Error("a Redis alone makes a fleet")
	}
}

func TestClusterProblems(t *testing.T) {
	const form = `must be a scheme, a host and a port, such as "http://10.0.0.5:8001"`
	for _, tt := range []struct{ line, want string }{
		{`advertise = "10.0.0.5"`, form},
		{`advertise = "10.0.0.5:8001"`, form},
		{`advertise = "http://10.0.0.5"`, form},
		{`advertise = "http://10.0.0.5:8001/"`, form},
		{`advertise = "http://10.0.0.5:8001/weir"`, form},
		{`advertise = "http://user@10.0.0.5:8001"`, form},
		{`advertise = "http://10.0.0.5:99999"`, form},
		{`advertise = "https://10.0.0.5:8001"`, "must start with http://, since cluster.certificate is not set"},
		{`advertise = "http://0.0.0.0:8001"`, "is an address to listen on"},
		{`advertise = "http://[::]:8001"`, "is an address to listen on"},
		{`advertise = "http://[::ffff:0.0.0.0]:8001"`, "is an address to listen on"},
		{`advertise = "http://224.0.0.1:8001"`, "is an address of many machines"},
		{`advertise = "http://[ff02::1]:8001"`, "is an address of many machines"},
		{`advertise = "http://255.255.255.255:8001"`, "is an address of many machines"},
		{`peer_port = -1`, "must be between 0 and 65535, not -1"},
		{`peer_port = 70000`, "must be between 0 and 65535, not 70000"},
		{`peer_port = 8000`, "is server.port, which is for clients"},
		{`lease_secs = 0`, "must be between 1 and 300"},
		{`lease_secs = 301`, "must be between 1 and 300"},
		{`certificate = "/missing"`, "cluster.key: is missing"},
		{`key = "/missing"`, "cluster.certificate: is missing"},
		{`client_ca_bundle = "/missing"`, "cluster.certificate: is missing"},
		{`advertize = "x"`, `unknown key; did you mean "advertise"?`},
	} {
		if got := problemsOf(t, clusterTable+tt.line+"\n"+docker); !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.line, got, tt.want)
		}
	}
	for text, want := range map[string]string{
		"[cluster]\nsecret = \"0123456789abcdef0123456789abcdef\"\n": "cluster: needs [cache.redis]",
		redisTable + "[cluster]\n":                                   "cluster.secret: is missing",
		redisTable + "[cluster]\nsecret = \"short\"\n":               "must have at least 32 characters",
	} {
		if got := problemsOf(t, text+docker); !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
	// Several names of hosts are fine.
	for _, url := range []string{"http://weir-0.weir:8001", "http://[2001:db8::5]:8001", "http://10.0.0.5:9"} {
		if err := mustLoad(t, clusterTable+fmt.Sprintf("advertise = %q\n", url)+docker).Validate(); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// Certificates take the place of the secret.
func TestClusterCertificates(t *testing.T) {
	authority := testutil.NewAuthority(t)
	certificate, key := authority.Issue("replica", time.Now().AddDate(1, 0, 0))
	table := fmt.Sprintf("%s[cluster]\ncertificate = %q\nkey = %q\nclient_ca_bundle = %q\n", redisTable, certificate, key, authority.File())
	for more, want := range map[string]string{
		"":                                       "",
		"advertise = \"https://replica:8001\"\n": "",
		"advertise = \"http://replica:8001\"\n":  "must start with https://, since cluster.certificate is set",
	} {
		if got := problemsOf(t, table+more+docker); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", more, got, want)
		}
	}
}
