package app

import (
	"fmt"
	"strings"
	"time"

	"github.com/weirhq/weir/upstream"
)

// redisAdvice follows the warnings that something is not shared through Redis.
const redisAdvice = "Check that Redis runs, can be reached and written, and that cache.redis.url is right"

// ExplainUpstream says in one line which upstream failed, how, and what can be
// done about it, for each member of the chain. keyOf returns what the
// configuration calls the upstream of a host, such as
// repository."ghcr.io".upstream[0].
func ExplainUpstream(e *upstream.Error, keyOf func(host string) string) string {
	var lines []string
	for _, failed := range e.Members() {
		lines = append(lines, explainMember(failed, keyOf(failed.Host)))
	}
	return strings.Join(lines, "; ")
}

func explainMember(e *upstream.Error, key string) string {
	answer := e.Answer()
	if answer != "" {
		answer = " (" + answer + ")"
	}
	switch e.Class {
	case upstream.ClassNotFound:
		return fmt.Sprintf("%s was asked for %s and does not have it%s", e.Host, e.Content(), answer)
	case upstream.ClassDenied:
		if e.Credentials {
			return fmt.Sprintf("%s refused the configured credentials for %s%s: check username and password of %s, and that they may read it",
				e.Host, e.Content(), answer, key)
		}
		return fmt.Sprintf("%s does not give %s to everyone%s: it is private or does not exist; if it exists, set username and password of %s",
			e.Host, e.Content(), answer, key)
	case upstream.ClassRateLimited:
		until := time.Now().Add(e.RetryAfter).UTC()
		return fmt.Sprintf("%s allows no more requests until %s, in %s%s: %s", e.Host,
			until.Format("15:04:05 UTC"), e.RetryAfter.Round(time.Second), answer, raiseLimit(e, key))
	default:
		text := fmt.Sprintf("%s could not deliver %s%s", e.Host, e.Content(), answer)
		if e.Err != nil {
			text += ": " + e.Err.Error()
		}
		if remedy := remedy(e, key); remedy != "" {
			text += ": " + remedy
		}
		return text
	}
}

// raiseLimit is the advice for a rate limit.
func raiseLimit(e *upstream.Error, key string) string {
	if e.Credentials {
		return "raise tag_ttl, or add another upstream beside " + key
	}
	return fmt.Sprintf("set username and password of %s for a limit of your own, raise tag_ttl, or add another upstream", key)
}

// remedy is the advice for an upstream that is unavailable, or "".
func remedy(e *upstream.Error, key string) string {
	switch e.Remedy() {
	case upstream.PushAgain:
		return "push the image again with a current client"
	case upstream.RaiseManifestSize:
		return "raise global.max_manifest_size if it is to be served"
	case upstream.CheckForRegistry:
		return fmt.Sprintf("what answers is no registry: check url of %s, and whether a proxy or a login page is between", key)
	case upstream.CheckContent:
		return "what it stores, or a proxy before it, is broken"
	case upstream.RaiseRedirects:
		return "raise max_redirect of " + key
	case upstream.CheckProxy:
		return fmt.Sprintf("check proxy of %s, or HTTP_PROXY, HTTPS_PROXY and NO_PROXY", key)
	case upstream.ReachOtherHost:
		return fmt.Sprintf("%s sends clients there, so the mirror must be able to reach it too", e.Host)
	case upstream.CheckClientCertificate:
		return fmt.Sprintf("it ended the TLS handshake: check client_certificate and client_private_key of %s", key)
	case upstream.CheckDNS:
		return fmt.Sprintf("check the host in url of %s, and the DNS of the mirror's machine", key)
	case upstream.TrustAuthority:
		return fmt.Sprintf("if its authority is your own, name it in server_ca_bundle of %s", key)
	case upstream.CheckCertificateHost:
		return "its certificate is for another host: check url of " + key
	case upstream.CheckCertificateTime:
		return "its certificate cannot be used; if it says expired, check the clock of the mirror's machine"
	case upstream.CheckScheme:
		return fmt.Sprintf("it speaks no TLS: check whether url of %s should begin with http://", key)
	case upstream.CheckListener:
		return fmt.Sprintf("nothing listens there: check url of %s", key)
	case upstream.CheckTimeouts:
		return fmt.Sprintf("check the network and firewalls between, or raise connect_timeout_secs or read_timeout_secs of %s", key)
	default:
		return ""
	}
}
