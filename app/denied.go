package app

import (
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/upstream"
)

// deniedLog warns that an upstream refuses its credentials. The line of a request is no
// warning, since clients also ask for images that do not exist.
type deniedLog struct {
	inForce atomic.Pointer[config.Config]
	logger  *slog.Logger
}

// warn writes the warning about an upstream. Several blocks may have the same one.
func (d *deniedLog) warn(u config.Upstream, e *upstream.Error) {
	cfg := d.inForce.Load()
	if cfg == nil {
		return // the first configuration is not in force yet
	}
	var blocks, keys []string
	for _, block := range cfg.Namespaces {
		for i, other := range block.Upstreams {
			if other == u {
				blocks = append(blocks, block.Key)
				keys = append(keys, fmt.Sprintf("repository.%q.upstream[%d]", block.Key, i))
			}
		}
	}
	// A changed upstream may still answer requests that began before.
	if len(keys) == 0 {
		return
	}
	d.logger.Warn("an upstream refuses the configured credentials. Check "+credentialKeys(u)+" of these keys, and that the account may read the content",
		"upstream", e.Host, "repositories", blocks, "keys", keys, "content", e.Content(), "error", e)
}

// credentialKeys names the settings of an upstream that are its credentials.
func credentialKeys(u config.Upstream) string {
	const certificate = "client_certificate and client_private_key"
	password := "username and password (or password_file)"
	if u.CredentialHelper != "" {
		password = "credential_helper"
	}
	switch {
	case u.ClientCertificate == "":
		return password
	case u.Username == "" && u.CredentialHelper == "":
		return certificate
	default:
		return password + ", " + certificate
	}
}
