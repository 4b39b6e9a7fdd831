package config

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestCredentialHelper(t *testing.T) {
	for settings, problem := range map[string]string{
		`credential_helper = "ecr-login"`:                                 "",
		`credential_helper = "/opt/docker-credential-x"`:                  "",
		"credential_helper = \"gcr\"\ncredential_ttl = \"10m\"":           "",
		`credential_helper = ""`:                                          "",
		`credential_helper = "bin/helper"`:                                "credential_helper: must be the name of a helper",
		`credential_helper = "./helper"`:                                  "credential_helper: must be the name of a helper",
		`credential_helper = "ecr login"`:                                 "credential_helper: must be the name of a helper",
		"credential_helper = \"gcr\"\nusername = \"u\"\npassword = \"p\"": "credential_helper: provides the password",
		"credential_helper = \"gcr\"\npassword = \"p\"":                   "credential_helper: provides the password",
		"credential_helper = \"gcr\"\ncredential_ttl = \"0s\"":            `credential_ttl: must be at least "1s"`,
		"credential_helper = \"gcr\"\ncredential_ttl = \"-1m\"":           "credential_ttl:",
	} {
		c, err := Load(write(t, "config.toml", "[repository.a]\n[[repository.a.upstream]]\nurl = \"https://a.example\"\n"+settings+"\n"))
		if err == nil {
			err = c.Validate()
		}
		if (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: %v", settings, err)
		}
	}
	c := mustLoad(t, "[repository.a]\n[[repository.a.upstream]]\nurl = \"http://registry.corp\"\ncredential_helper = \"no-such-helper\"\n")
	block := c.Namespaces[0]
	if !block.HasCredentials() || block.Upstreams[0].CredentialTTL != Duration(30*time.Minute) || block.RecheckPossession != Duration(day) {
		t.Errorf("a helper gives no credentials: %+v", block)
	}
	warnings := strings.Join(c.Warnings(), "\n")
	for _, want := range []string{"repository.a.upstream[0].credential_helper", "not a program that Weir can run", "credentials are sent over http"} {
		if !strings.Contains(warnings, want) {
			t.Errorf("the warnings lack %q: %s", want, fmt.Sprint(warnings))
		}
	}
}
