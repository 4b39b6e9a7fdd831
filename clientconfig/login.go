package clientconfig

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

// Login is the user that a client is at the mirror.
type Login struct{ User, Password string }

// basic returns the login as a value of HTTP's Basic scheme (RFC 7617).
func (l *Login) basic() string {
	return base64.StdEncoding.EncodeToString([]byte(l.User + ":" + l.Password))
}

// auths returns the file of logins that Docker and most other clients read.
func (m Mirror) auths(path string) File {
	type entry struct {
		Auth string `json:"auth"`
	}
	content, err := json.MarshalIndent(map[string]map[string]entry{"auths": {m.Host: {m.Login.basic()}}}, "", "  ")
	if err != nil {
		panic(err) // strings can always be marshalled
	}
	return File{Path: path, Content: string(content) + "\n", Secret: true}
}

// dockerLogin is the file of logins of root, for Docker and the clients that read it.
const dockerLogin = "/root/.docker/config.json"

// loggedIn adds the login to the files of a client.
func (m Mirror) loggedIn(client string, c Config) Config {
	if m.Login == nil {
		return c
	}
	if m.Plain {
		c.Warnings = append(c.Warnings, "the password is sent to "+m.URL+" without TLS, so anyone on the network path can read it")
	}
	switch client {
	case "containerd", "nerdctl", "kubernetes":
		for i := range c.Files {
			if f := &c.Files[i]; strings.HasSuffix(f.Path, "/hosts.toml") {
				f.Content += fmt.Sprintf("  [host.%q.header]\n    authorization = %q\n", m.URL, "Basic "+m.Login.basic())
				f.Secret = true
			}
		}
	case "k3s", "rke2":
		if len(c.Files) > 0 {
			f := &c.Files[0]
			if !m.needsCerts() { // the file ends with the mirror's entry otherwise
				f.Content += fmt.Sprintf("configs:\n  %q:\n", m.Host)
			}
			f.Content += fmt.Sprintf("    auth:\n      username: %q\n      password: %q\n", m.Login.User, m.Login.Password)
			f.Secret = true
		}
	case "podman", "buildah", "skopeo":
		c.Files = append(c.Files, m.auths("/root/.config/containers/auth.json"))
		c.Hints = append(c.Hints, "this is the login of root. Other users have their own in ~/.config/containers/auth.json")
	case "crio":
		c.Files = append(c.Files, m.auths("/etc/crio/auth.json"))
		c.Hints = append(c.Hints, `CRI-O reads the login if global_auth_file = "/etc/crio/auth.json" is set in the table [crio.image] of crio.conf`)
	case "docker":
		c.Files = append(c.Files, m.auths(dockerLogin))
		c.Hints = append(c.Hints, "this is the login of root, as docker login writes it. Other users have their own in ~/.docker/config.json")
		c.Warnings = append(c.Warnings, "docker sends a password to the mirror only for images that name the mirror, "+m.Host+"/... "+
			"For registry-mirrors it sends none, and pulls from Docker Hub itself if the mirror requires one. Identify such clients by certificates")
	default: // these read Docker's file, buildkit by its clients
		c.Files = append(c.Files, m.auths(dockerLogin))
		c.Hints = append(c.Hints, strings.TrimSpace(client+" reads the login in "+dockerLogin+". Users other than root have their own in ~/.docker/config.json"))
	}
	return c
}
