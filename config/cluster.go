package config

import (
	"net/netip"
	"net/url"
	"reflect"
	"strconv"
	"time"

	"github.com/weirhq/weir/internal/hosts"
)

// Cluster makes the mirrors that share a Redis act as one.
type Cluster struct {
	Advertise      string        `toml:"advertise"`   // URL under which other replicas reach this one; empty: an address of this machine
	PeerPort       int           `toml:"peer_port"`   // of the listener for other replicas
	Secret         Secret        `toml:"secret"`      // shared by all replicas
	Certificate    string        `toml:"certificate"` // path of a PEM file
	Key            string        `toml:"key"`         // path of a PEM file
	ClientCABundle string        `toml:"client_ca_bundle"`
	Lease          time.Duration `toml:"lease_secs"` // of a download; one that hangs holds up others a third longer
}

func newCluster() *Cluster { return &Cluster{PeerPort: 8001, Lease: 10 * time.Second} }

// cluster decodes the table of a fleet.
func (d *decoder) cluster(p place, n *node, dst **Cluster) {
	*dst = newCluster()
	d.table(p, n, reflect.ValueOf(*dst).Elem())
}

// maxLease bounds the wait for a replica that died.
const maxLease = 5 * time.Minute

// cluster checks the table [cluster], if there is one.
func (v *validator) cluster() {
	c := v.config.Cluster
	if c == nil {
		return
	}
	const at = "cluster"
	if v.config.Cache.Redis == nil {
		v.fail(at, "needs [cache.redis], through which replicas find each other; add that table, or remove this one")
	}
	hasFiles := c.Certificate != "" || c.Key != "" || c.ClientCABundle != ""
	switch n := len(c.Secret); {
	case n == 0 && !hasFiles:
		v.fail(at+".secret", "is missing; make one for all replicas with: openssl rand -hex 32. Or set certificate, key and client_ca_bundle")
	case n > 0 && n < minSecretKey:
		v.fail(at+".secret", "must have at least %d characters; make one with: openssl rand -hex 32", minSecretKey)
	}
	v.pair(at, "certificate", c.Certificate, "key", c.Key)
	if v.together(at, "certificate", c.Certificate, "client_ca_bundle", c.ClientCABundle) && c.ClientCABundle != "" {
		v.failed(at+".client_ca_bundle", checkBundle(c.ClientCABundle))
	}
	if c.Advertise != "" {
		v.advertise(at+".advertise", *c)
	}
	switch server := v.config.Server; {
	case c.PeerPort < 0 || c.PeerPort > 65535:
		v.fail(at+".peer_port", "must be between 0 and 65535, not %d", c.PeerPort)
	case c.PeerPort != 0 && c.PeerPort == server.Port:
		v.fail(at+".peer_port", "is server.port, which is for clients; choose another port")
	}
	if c.Lease < time.Second || c.Lease > maxLease {
		v.fail(at+".lease_secs", "must be between 1 and %d", int(maxLease.Seconds()))
	}
}

// advertise checks the URL of a replica.
func (v *validator) advertise(at string, c Cluster) {
	scheme := "http"
	if c.Certificate != "" {
		scheme = "https"
	}
	u, err := url.Parse(c.Advertise)
	if err != nil || u.Hostname() == "" || !hosts.ValidPort(u.Port()) || c.Advertise != u.Scheme+"://"+u.Host {
		v.fail(at, `must be a scheme, a host and a port, such as "%s://10.0.0.5:%s"`, scheme, strconv.Itoa(newCluster().PeerPort))
		return
	}
	if u.Scheme != scheme {
		v.fail(at, "must start with %s://, since cluster.certificate is %s", scheme, map[string]string{"http": "not set", "https": "set"}[scheme])
	}
	addr, err := netip.ParseAddr(u.Hostname())
	switch addr = addr.Unmap(); {
	case err != nil: // a name
	case addr.IsUnspecified():
		v.fail(at, "is an address to listen on, which no other replica can connect to; write the address of this machine")
	case addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		v.fail(at, "is an address of many machines, which no other replica can connect to; write the address of this machine")
	}
}
