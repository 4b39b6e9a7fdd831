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
