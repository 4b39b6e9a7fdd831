package app

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/upstream"
)

// The warning names each place of the upstream in the configuration, and the settings
// that are its credentials. It holds none of them.
func TestDeniedLog(t *testing.T) {
	url := func(host string) config.URL { return config.URL{Scheme: "https", Host: host} }
	password := config.Upstream{URL: url("ghcr.io"), Username: "reader", Password: "s3cret"}
	certificate := config.Upstream{URL: url("ghcr.io"), ClientCertificate: "/c.pem", ClientPrivateKey: "/k.pem"}
	helper := config.Upstream{URL: url("ghcr.io"), CredentialHelper: "ecr-login"}
	both := password
	both.ClientCertificate, both.ClientPrivateKey = "/c.pem", "/k.pem"
	other := config.Upstream{URL: url("ghcr.io"), Username: "reader", Password: "another"}
	for name, c := range map[string]struct {
		upstream config.Upstream
		blocks   []config.Namespace
		check    string
		keys     string
	}{
		"password":        {password, []config.Namespace{{Key: "ghcr.io", Upstreams: []config.Upstream{password}}}, "username and password (or password_file)", `[repository."ghcr.io".upstream[0]]`},
		"certificate":     {certificate, []config.Namespace{{Key: "ghcr.io", Upstreams: []config.Upstream{certificate}}}, "client_certificate and client_private_key", `[repository."ghcr.io".upstream[0]]`},
		"helper":          {helper, []config.Namespace{{Key: "ghcr.io", Upstreams: []config.Upstream{helper}}}, "credential_helper", `[repository."ghcr.io".upstream[0]]`},
		"both":            {both, []config.Namespace{{Key: "ghcr.io", Upstreams: []config.Upstream{both}}}, "username and password (or password_file), client_certificate and client_private_key", `[repository."ghcr.io".upstream[0]]`},
		"one of several":  {password, []config.Namespace{{Key: "ghcr.io", Upstreams: []config.Upstream{other, password}}}, "username and password (or password_file)", `[repository."ghcr.io".upstream[1]]`},
		"of several":      {password, []config.Namespace{{Key: "a", Upstreams: []config.Upstream{password}}, {Key: "b/c", Upstreams: []config.Upstream{other, password}}}, "username and password (or password_file)", `[repository."a".upstream[0] repository."b/c".upstream[1]]`},
		"changed since":   {password, []config.Namespace{{Key: "ghcr.io", Upstreams: []config.Upstream{other}}}, "", ""},
		"no longer there": {password, nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			log := new(testutil.LogBuffer)
			d := &deniedLog{logger: slog.New(slog.NewJSONHandler(log, nil))}
			refused := &upstream.Error{Host: "ghcr.io", Op: "manifest", Repository: "org/app", Reference: "1.2", Status: 401, Code: "UNAUTHORIZED", Class: upstream.ClassDenied}
			d.warn(c.upstream, refused) // before the first configuration is in force
			d.inForce.Store(&config.Config{Namespaces: c.blocks})
			d.warn(c.upstream, refused)
			if c.keys == "" {
				if log.String() != "" {
					t.Errorf("the log says %s", log)
				}
				return
			}
			var line struct {
				Level, Msg, Upstream, Content, Error string
				Repositories, Keys                   []string
			}
			if err := json.Unmarshal([]byte(log.String()), &line); err != nil {
				t.Fatalf("%v: %s", err, log)
			}
			want := "an upstream refuses the configured credentials. Check " + c.check + " of these keys, and that the account may read the content"
			if line.Level != "WARN" || line.Msg != want || fmt.Sprint(line.Keys) != c.keys || len(line.Repositories) != len(line.Keys) ||
				line.Upstream != "ghcr.io" || line.Content != "org/app:1.2" || !strings.Contains(line.Error, "401 Unauthorized: UNAUTHORIZED") {
				t.Errorf("%s", log)
			}
			if strings.Contains(log.String(), "s3cret") {
				t.Errorf("the log holds the password: %s", log)
			}
		})
	}
}
