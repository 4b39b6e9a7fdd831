package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestTokenRealm(t *testing.T) {
	for realm, valid := range map[string]bool{
		"": true, "auth.docker.io": true, "Auth.Docker.IO": true, "auth.corp:8443": true, "localhost": true, "[::1]:5001": true,
		"https://auth.docker.io": false, "auth.docker.io/token": false, "a b": false, "user@auth.docker.io": false, "auth.docker.io:": false, "*.docker.io": false,
	} {
		c := mustLoad(t, fmt.Sprintf("[repository.a]\n[[repository.a.upstream]]\nurl = \"https://a.example\"\ntoken_realm = %q\n", realm))
		if err := c.Validate(); (err == nil) != valid || err != nil && !strings.Contains(err.Error(), "repository.a.upstream[0].token_realm: must be a host name") {
			t.Errorf("%q: %v", realm, err)
		}
	}
}

func TestPlainCredentialsAreWarnedAbout(t *testing.T) {
	for url, warned := range map[string]bool{
		"http://registry.corp:5000": true, "http://10.0.0.1": true, "HTTP://registry.corp": true,
		"https://registry.corp": false, "http://localhost:5000": false, "http://127.0.0.1:5000": false, "http://[::1]": false,
	} {
		text := fmt.Sprintf("[repository.a]\n[[repository.a.upstream]]\nurl = %q\n", url)
		for credentials, want := range map[string]bool{"": false, "username = \"u\"\npassword = \"p\"\n": warned} {
			got := strings.Join(mustLoad(t, text+credentials).Warnings(), "\n")
			if strings.Contains(got, "credentials are sent over http") != want || want && !strings.Contains(got, "repository.a.upstream[0]") {
				t.Errorf("%s, %q: %q", url, credentials, got)
			}
		}
	}
}
