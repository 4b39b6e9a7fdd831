package clientconfig

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/weirhq/weir/internal/hosts"
	"github.com/weirhq/weir/oci"
)

// Mirror is the mirror's address, as clients use it.
type Mirror struct {
	URL   string // http://mirror.example.com:8000
	Host  string // mirror.example.com:8000
	Plain bool   // HTTP without TLS, which clients must be told
	Login *Login // nil: clients have no password

	// CA is the authority of the mirror's certificate in PEM form, "" if clients trust
	// it already. Certificate and Key are those that clients show the mirror, if any.
	CA, Certificate, Key string
}

// Names of the files that certs makes, as Docker and containerd expect them.
const (
	caName          = "ca.crt"
	certificateName = "client.cert"
	keyName         = "client.key"
)

// certs returns the files of the mirror's authority and of the client's certificate in a
// directory.
func (m Mirror) certs(dir string) []File {
	var files []File
	if m.CA != "" {
		files = append(files, File{Path: dir + "/" + caName, Content: m.CA})
	}
	if m.Certificate != "" {
		files = append(files, File{Path: dir + "/" + certificateName, Content: m.Certificate}, File{Path: dir + "/" + keyName, Content: m.Key, Secret: true})
	}
	return files
}

// needsCerts reports whether certs returns a file.
func (m Mirror) needsCerts() bool { return m.CA != "" || m.Certificate != "" }

var hostAndPort = regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]+)?$`)

// ParseMirror reads the mirror's URL. Its errors do not quote the URL, which may hold
// a password.
func ParseMirror(raw string) (Mirror, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return Mirror{}, errors.New("must be a URL such as http://mirror.example.com:8000 or https://mirror.example.com")
	case u.User != nil:
		return Mirror{}, errors.New("must not contain credentials: they would be written into files that every user can read")
	case u.Path != "" && u.Path != "/":
		return Mirror{}, errors.New("must have no path: the registry API is at the root of a host, and Docker's registry-mirrors take no path")
	case strings.ContainsAny(raw, "?#"):
		return Mirror{}, errors.New("must end with the host and port, without ? or #")
	}
	m := Mirror{Host: strings.ToLower(u.Host), Plain: u.Scheme == "http"}
	m.URL = u.Scheme + "://" + m.Host
	if !hostAndPort.MatchString(m.Host) {
		return Mirror{}, fmt.Errorf("names %q, which is not a host name or IP address with an optional port", u.Host)
	}
	if u.Port() != "" && !hosts.ValidPort(u.Port()) {
		return Mirror{}, errors.New("names a port that is not between 1 and 65535")
	}
	if name := u.Hostname(); hosts.Unspecified(name) {
		return Mirror{}, fmt.Errorf("names %s, which stands for all addresses of a machine; name an address that clients can connect to", name)
	}
	// Docker takes "mirror/app" for the user mirror of Docker Hub.
	if !oci.IsHost(m.Host) {
		return Mirror{}, fmt.Errorf("names %[1]q, which clients would mistake for a user of Docker Hub in an image's name; "+
			"write its full name (%[1]s.example.com), or its port (%[1]s:%[2]d)", m.Host, defaultPort(u.Scheme))
	}
	return m, nil
}

func defaultPort(scheme string) int {
	if scheme == "http" {
		return 80
	}
	return 443
}
