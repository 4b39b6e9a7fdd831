package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestAdminAddress(t *testing.T) {
	for address, valid := range map[string]bool{
		"": true, "127.0.0.1:9000": true, ":9000": true, "[::1]:9000": true, "localhost:0": true, "0.0.0.0:9000": true, "admin.internal:9000": true,
		"127.0.0.1": false, "9000": false, ":http": false, "127.0.0.1:70000": false, "http://127.0.0.1:9000": false, "::1:9000": false, "a b:9000": false,
		"127.0.0.1:8000": false, ":8000": false,
	} {
		problems := problemsOf(t, fmt.Sprintf("[server]\nadmin_address = %q\n", address))
		if (problems == "") != valid || !valid && !strings.Contains(problems, "server.admin_address: ") {
			t.Errorf("%q: %s", address, problems)
		}
	}
}

// A port that another listener has on the same address cannot be the operators' as well.
func TestAdminAddressOfAnotherListener(t *testing.T) {
	for _, test := range []struct{ bind, address, more, want string }{
		{"0.0.0.0", "127.0.0.1:8000", "", "is the address for clients"},
		{"::", "[::1]:8000", "", "is the address for clients"},
		{"127.0.0.1", "0.0.0.0:8000", "", "is the address for clients"},
		{"127.0.0.1", "127.0.0.2:8000", "", ""},
		{"0.0.0.0", "127.0.0.1:9000", "", ""},
		{"0.0.0.0", "127.0.0.1:8001", "[cluster]\nsecret = \"a secret of a whole fleet of mirrors\"\n[cache.redis]\nurl = \"redis://127.0.0.1\"\n", "(cluster.peer_port)"},
		{"0.0.0.0", "127.0.0.1:8001", "", ""},
	} {
		problems := problemsOf(t, fmt.Sprintf("[server]\nbind_address = %q\nadmin_address = %q\n%s", test.bind, test.address, test.more))
		if (test.want == "") != (problems == "") || !strings.Contains(problems, test.want) {
			t.Errorf("%+v: %s", test, problems)
		}
	}
}
