package clientconfig

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Mirror is where clients reach the mirror.
type Mirror struct {
	URL   string // http://mirror.example.com:8000
	Host  string // mirror.example.com:8000
	Plain bool   // HTTP without TLS, which clients must be told
}

var hostAndPort = regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]+)?$`)

// ParseMirror reads the URL under which clients reach the mirror. Its errors do
// not quote the URL, which may hold a password.
func ParseMirror(raw string) (Mirror, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return Mirror{}, errors.New("must be a URL such as http://mirror.example.com:8000 or https://mirror.example.com")
	case u.User != nil:
		return Mirror{}, errors.New("must not hold credentials: they would be written into files that every user can read")
	case u.Path != "" && u.Path != "/":
		return Mirror{}, errors.New("must have no path: the registry API is at the root of a host, and Docker's registry-mirrors take no path")
	case strings.ContainsAny(raw, "?#"):
		return Mirror{}, errors.New("must end with the host and port, without ? or #")
	}
	m := Mirror{Host: strings.ToLower(u.Host), Plain: u.Scheme == "http"}
	m.URL = u.Scheme + "://" + m.Host
	if !hostAndPort.MatchString(m.Host) {
		return Mirror{}, fmt.Errorf("names %q, which is no host name or IP address with an optional port", u.Host)
	}
	if port, err := strconv.Atoi(u.Port()); u.Port() != "" && (err != nil || port < 1 || port > 65535) {
		return Mirror{}, errors.New("names a port that is not between 1 and 65535")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && ip.IsUnspecified() {
		return Mirror{}, fmt.Errorf("names %s, which is every address of a machine and none that clients can connect to", ip)
	}
	if !isHost(m.Host) {
		return Mirror{}, fmt.Errorf("names %[1]q, which clients would take for a user of Docker Hub in an image's name: "+
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
