package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestTrustedProxies(t *testing.T) {
	for text, want := range map[string]string{
		`[server]` + "\n" + `trusted_proxies = ["10.0.0.0/8", "192.0.2.1", "fd00::/8", "::1"]`:                           "[10.0.0.0/8 192.0.2.1/32 fd00::/8 ::1/128]",
		`[server]` + "\n" + `trusted_proxies = ["::ffff:10.0.0.0/104", "::ffff:192.0.2.1"]`:                              "[10.0.0.0/8 192.0.2.1/32]",
		`[server]` + "\n" + `trusted_proxies = ["0.0.0.0/0", "::/0"]`:                                                    "[0.0.0.0/0 ::/0]",
		`[global]` + "\n" + `trusted_proxies = ["10.0.0.0/8"]`:                                                           "[10.0.0.0/8]",
		`[global]` + "\n" + `trusted_proxies = ["10.0.0.0/8"]` + "\n[server]\n" + `trusted_proxies = ["192.168.0.0/16"]`: "[192.168.0.0/16]",
		"": "[]",
	} {
		c := mustLoad(t, text)
		if got := fmt.Sprint(c.TrustedProxies()); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		var written strings.Builder
		if err := c.WriteTOML(&written); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(mustLoad(t, written.String()).TrustedProxies()); got != want {
			t.Errorf("%s: written and read again: %s, want %s", text, got, want)
		}
	}
	for value, want := range map[string]string{
		`"10.0.0.0/33"`:  "a range of addresses",
		`"10.0.0.1/8"`:   `write "10.0.0.0/8"`,
		`"nginx"`:        "a range of addresses",
		`""`:             "a range of addresses",
		`"10.0.0.1:80"`:  "a range of addresses",
		`"fe80::1%eth0"`: "a range of addresses",
		`"10.0.0"`:       "a range of addresses",
		`"fd00::1/8"`:    `write "fd00::/8"`,
		`"10.0.0.0 / 8"`: "a range of addresses",
		`10`:             "must be a string",
		`["10.0.0.0/8"]`: "must be a string",
	} {
		for _, table := range []string{"server", "global"} {
			_, err := Load(write(t, "config.toml", fmt.Sprintf("[%s]\ntrusted_proxies = [\"::1\", %s]\n", table, value)))
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), table+".trusted_proxies[1]") {
				t.Errorf("%s in %s: %v, want %q", value, table, err, want)
			}
		}
	}
}
