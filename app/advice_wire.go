package app

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/registry"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
)

// explain returns the sentence that a client is told about a failure of its
// request to a namespace. The namespace is nil if the name belongs to none.
func explain(ns *namespace.Namespace, err error) string {
	failed, isUpstream := errors.AsType[*upstream.Error](err)
	offline, isOffline := errors.AsType[*namespace.OfflineError](err)
	loop, isLoop := errors.AsType[*registry.LoopError](err)
	denied, isDenied := errors.AsType[*access.DeniedError](err)
	undecided, isUndecided := errors.AsType[*namespace.UndecidedError](err)
	switch {
	case isDenied:
		return explainDenied(denied)
	case isLoop && loop.Namespace != "":
		return fmt.Sprintf("%v. Check url of repository.%q.upstream", err, loop.Namespace)
	case isLoop:
		return err.Error() + ". Check url of each upstream of these mirrors"
	case isUndecided && ns != nil:
		return fmt.Sprintf("%s must decide whether this account may read %s, but cannot at the moment: %s. Set auth_stale_grace of repository.%q to serve known clients meanwhile",
			ns.FirstUpstream(), undecided.Content, explain(ns, undecided.Err), ns.Key())
	case isUpstream && ns != nil:
		return ExplainUpstream(failed, func(host string) string { return upstreamKey(ns, host) })
	case isOffline:
		return err.Error() + ". " + offlineRemedy(offline)
	case errors.Is(err, storage.ErrCorrupt):
		// A download was corrupt. Content that has become corrupt in the store is
		// quarantined and downloaded again, so no client is told of it.
		return err.Error() + ". " + corruptUpstream
	default:
		return err.Error()
	}
}

const corruptUpstream = "The upstream's copy, or a proxy before it, is broken"

func offlineRemedy(e *namespace.OfflineError) string {
	return fmt.Sprintf("Remove offline = true from repository.%q to fetch it from %s", e.Namespace, e.Upstream)
}

// upstreamKey returns the configuration's name of the upstream with a host, or the
// name of all upstreams if several have that host or none has.
func upstreamKey(ns *namespace.Namespace, host string) string {
	key, found := fmt.Sprintf("repository.%q.upstream", ns.Key()), -1
	for i, h := range ns.UpstreamHosts() {
		if !strings.EqualFold(h, host) {
			continue
		}
		if found >= 0 {
			return key // the host does not tell which of the two it is
		}
		found = i
	}
	if found < 0 {
		return key
	}
	return fmt.Sprintf("%s[%d]", key, found)
}

// ExplainUpstream names the upstream that failed, the failure, and its remedy, in
// one line for all members of a chain. keyOf returns the configuration's name of the
// upstream with a host, such as repository."ghcr.io".upstream[0].
func ExplainUpstream(e *upstream.Error, keyOf func(host string) string) string {
	var members []string
	for _, failed := range e.Members() {
		members = append(members, explainMember(failed, keyOf(failed.Host)))
	}
	return strings.Join(members, ". ")
}

func explainMember(e *upstream.Error, key string) string {
	answer := e.Answer()
	if answer != "" {
		answer = " (" + answer + ")"
	}
	switch e.Class {
	case upstream.ClassNotFound:
		text := fmt.Sprintf("%s does not have %s%s", e.Host, e.Content(), answer)
		if e.Foreign() {
			text += ". " + upstreamRemedy(upstream.CheckForRegistry, e.Host, key)
		}
		return text
	case upstream.ClassDenied:
		switch {
		// The page of a proxy that wants a password is not a web filter.
		case e.NotAsked && e.Foreign():
			return fmt.Sprintf("%s denies %s%s. %s", e.Host, e.Content(), answer, upstreamRemedy(upstream.CheckForRegistry, e.Host, key))
		case e.OnBehalf:
			return fmt.Sprintf("%s does not serve %s to this account%s. It is private or does not exist. Log in to this mirror with an account of %s that may read it",
				e.Host, e.Content(), answer, e.Host)
		case e.Credentials && e.NotAsked:
			return fmt.Sprintf("%s denies %s and does not ask for the configured credentials%s. Check url of %s, and whether a proxy in between removes WWW-Authenticate",
				e.Host, e.Content(), answer, key)
		case e.Credentials:
			return fmt.Sprintf("%s refused the configured credentials for %s%s. Check username and password of %s, and that they may read it",
				e.Host, e.Content(), answer, key)
		}
		// Registries deny a repository that does not exist, so that nothing is
		// learned about private ones.
		return fmt.Sprintf("%s does not serve %s to anonymous clients%s. It is private or does not exist. If it exists, set username and password of %s",
			e.Host, e.Content(), answer, key)
	case upstream.ClassRateLimited:
		if e.OnBehalf {
			return fmt.Sprintf("%s allows this account no more requests for %s%s", e.Host, e.RetryAfter.Round(time.Second), answer)
		}
		remedy := raiseLimit(e.Credentials, key)
		if e.Remedy() == upstream.AwaitOtherHost {
			answer += ": " + e.Err.Error()
			remedy = upstreamRemedy(upstream.AwaitOtherHost, e.Host, key)
		}
		until := time.Now().Add(e.RetryAfter).UTC()
		return fmt.Sprintf("%s allows no more requests until %s, in %s%s. %s", e.Host,
			until.Format("15:04:05 UTC"), e.RetryAfter.Round(time.Second), answer, remedy)
	default:
		text := fmt.Sprintf("%s could not deliver %s%s", e.Host, e.Content(), answer)
		if e.Err != nil {
			text += ": " + e.Err.Error()
		}
		if advice := upstreamRemedy(e.Remedy(), e.Host, key); advice != "" {
			text += ". " + advice
		}
		return text
	}
}

// raiseLimit returns the remedy for a rate limit. Without credentials, all clients
// behind one address share a limit, so credentials come first.
func raiseLimit(credentials bool, key string) string {
	if credentials {
		return "Raise tag_ttl, or add another upstream after " + key
	}
	return fmt.Sprintf("Set username and password of %s for a limit of your own, raise tag_ttl, or add another upstream", key)
}

// MoreRequests returns the remedy for a rate limit that is used up.
func MoreRequests(credentials bool) string {
	if credentials {
		return "Wait, raise tag_ttl, or add another upstream"
	}
	return "Wait, or set username and password for a limit of your own"
}

// upstreamRemedy returns the remedy for an upstream that is unavailable, with the
// configuration's name of the upstream. It is empty if nothing on this side helps.
func upstreamRemedy(remedy upstream.Remedy, host, key string) string {
	switch remedy {
	case upstream.PushAgain:
		return "Push the image again with a current client"
	case upstream.RaiseManifestSize:
		return "Raise global.max_manifest_size to serve it"
	case upstream.RaiseBlobSize:
		return "Raise global.max_blob_size to serve it"
	case upstream.CheckForRegistry:
		return fmt.Sprintf("The answer is not that of a registry. Check url of %s, and whether a proxy or a login page is in between", key)
	case upstream.CheckPort:
		return fmt.Sprintf("The answer is not that of a registry. Check url of %s, whether it should begin with https://, and whether a proxy is in between", key)
	case upstream.CheckBehind:
		return fmt.Sprintf("The answer is not that of a registry. Check that the registry behind it runs, and url of %s", key)
	case upstream.CheckContent:
		return corruptUpstream
	case upstream.RaiseRedirects:
		return "Raise max_redirect of " + key
	case upstream.CheckProxy:
		return fmt.Sprintf("Check proxy of %s, or HTTP_PROXY, HTTPS_PROXY and NO_PROXY", key)
	case upstream.ReachOtherHost:
		return fmt.Sprintf("%s sends clients there, so the mirror must be able to reach it too", host)
	case upstream.CheckOtherHost:
		return fmt.Sprintf("%s sends clients there with a signed link, which may have expired. Check the clocks, and whether a proxy or a web filter is in between", host)
	case upstream.CheckClientCertificate:
		return fmt.Sprintf("It ended the TLS handshake. Check client_certificate and client_private_key of %s", key)
	case upstream.CheckDNS:
		return fmt.Sprintf("Check the host in url of %s, and the DNS of the mirror's machine", key)
	case upstream.TrustAuthority:
		return fmt.Sprintf("If its authority is your own, write its certificate into server_ca_bundle of %s", key)
	case upstream.CheckCertificateHost:
		return "Its certificate is for another host. Check url of " + key
	case upstream.CheckCertificateTime:
		return "Its certificate cannot be used. If it says expired, check the clock of the mirror's machine"
	case upstream.CheckScheme:
		return fmt.Sprintf("It does not speak TLS. Check whether url of %s should begin with http://", key)
	case upstream.CheckListener:
		return fmt.Sprintf("Nothing listens there. Check url of %s", key)
	case upstream.RaiseLimits:
		return "The mirror's machine is short of open files, local ports or memory. The cause is not " + host + ". " + raiseFiles
	case upstream.CheckTimeouts:
		return fmt.Sprintf("Check the network and firewalls in between, or raise connect_timeout_secs or read_timeout_secs of %s", key)
	case upstream.CheckSpeed:
		return fmt.Sprintf("Check the network in between, or add another upstream after %s", key)
	case upstream.AwaitOtherHost:
		return fmt.Sprintf("%s sends clients there. Try again later, or add another upstream after %s", host, key)
	case upstream.AdmitPrivate:
		return fmt.Sprintf("%s sends clients there. If you trust that host, set allow_private_redirects = true of %s", host, key)
	case upstream.StayPublic:
		return "This page only accepts registries at public addresses. Set ui.allow_private_registries = true, or write the block into a configuration file"
	case upstream.TrustRealm:
		return "If you trust that host, name it in token_realm of " + key
	case upstream.CheckHelper:
		return "Check credential_helper of " + key + ", and the log of the mirror"
	case upstream.NeverAdmitted:
		return fmt.Sprintf("%s sends clients there, which no setting allows. Check url of %s, and whether a proxy is in between", host, key)
	case upstream.EndLoop:
		return fmt.Sprintf("It leads back to this mirror. Set url of %s to the registry itself", key)
	}
	return ""
}
