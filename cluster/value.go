package cluster

import (
	"encoding/json"
	"net"
	"net/url"
	"strconv"

	"github.com/weirhq/weir/internal/hosts"
)

// version is that of the values in Redis and of the requests between replicas. A replica
// leaves those of another version alone, and works alone then.
const version = 1

// note is a value that names a replica: the holder of a lease, or one that has a blob.
type note struct {
	Version int    `json:"v"`
	Token   string `json:"token"` // of one turn, so that no two values are the same
	URL     string `json:"url"`
	Seal    string `json:"seal,omitempty"`
}

func (n note) fields(key string) []string {
	return []string{key, strconv.Itoa(n.Version), n.Token, n.URL}
}

// newNote returns a value that names this replica, for one key.
func (c *Cluster) newNote(key string) string {
	n := note{Version: version, Token: randomToken(), URL: c.opts.URL}
	n.Seal = c.sealer.Seal(n.fields(key)...)
	return encode(n)
}

// readNote returns the replica that a value names. It returns false for a value that is of
// another version, or that no replica with the same secret wrote for this key.
func (c *Cluster) readNote(key, value string) (note, bool) {
	var n note
	if len(value) > maxValue || json.Unmarshal([]byte(value), &n) != nil || n.Version != version {
		return note{}, false
	}
	return n, c.sealer.Valid(n.Seal, n.fields(key)...) && validURL(n.URL)
}

func encode(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // cannot be: strings and numbers
	}
	return string(text)
}

// maxURL bounds a URL: the longest name of a host has 253 bytes.
const maxURL = 300

// validURL reports whether a URL can be that of a replica: a scheme, a host and a port, and
// nothing else.
func validURL(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || len(raw) > maxURL || u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	host, port, err := net.SplitHostPort(u.Host)
	return err == nil && host != "" && hosts.ValidPort(port) && raw == u.Scheme+"://"+u.Host
}
