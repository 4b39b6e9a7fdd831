package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// redisAdvice returns the sentence that follows the warnings that something is not
// shared through Redis: the remedy for an error.
func redisAdvice(err error) string {
	if remedy := redisTLSRemedy(err); remedy != "" {
		return remedy
	}
	if remedy := redisAnswerRemedy(err); remedy != "" {
		return remedy
	}
	// A server that expects plain text waits for the end of a TLS handshake's line.
	if errors.Is(err, context.DeadlineExceeded) {
		return "Check that Redis is running and answers quickly, and that cache.redis.url is correct. A port without TLS does not answer if the URL starts with rediss://"
	}
	return "Check that Redis is running, reachable and writable, and that cache.redis.url is correct"
}

// redisTLSRemedy returns the remedy for a failed TLS handshake, or "" for other
// errors.
func redisTLSRemedy(err error) string {
	_, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, isHost := errors.AsType[x509.HostnameError](err)
	_, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	_, isPlain := errors.AsType[tls.RecordHeaderError](err)
	below, _ := errors.AsType[*net.OpError](err)
	switch {
	case isUnknown:
		return "Set cache.redis.server_ca_bundle to the authority that signed the certificates of Redis and its Sentinels"
	case isHost:
		return "Write a host name of the certificate into cache.redis.url, or issue a certificate for that address. " +
			"Sentinels report host names if announce-hostnames is yes"
	case isInvalid:
		return "Renew the certificate of Redis, and check the clock of this machine"
	case isPlain:
		return "That port does not speak TLS. Start cache.redis.url with redis://, or write the TLS port into it"
	case below != nil && below.Op == "remote error": // an alert of the server
		return "Redis ended the TLS handshake. Set cache.redis.client_certificate and cache.redis.client_private_key to a pair that its tls-ca-cert-file accepts"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		// A Redis that ends does this, and one that refuses a handshake whose alert is
		// lost.
		return "Check that Redis is running. A port with TLS needs rediss:// in cache.redis.url, and may require cache.redis.client_certificate and cache.redis.client_private_key"
	default:
		return ""
	}
}

// redisAnswerRemedy returns the remedy for an error that Redis or a Sentinel answered,
// or "" for other errors.
func redisAnswerRemedy(err error) string {
	if _, tooLarge := errors.AsType[replyError](err); tooLarge {
		return "Check that cache.redis.url names a Redis server, and that no other client of it publishes or writes below cache.redis.key_prefix"
	}
	if errors.Is(err, redis.Nil) { // the answer of a Sentinel
		return "No Sentinel knows this group. Correct master_name in cache.redis.url"
	}
	for _, answer := range []struct{ prefix, remedy string }{
		{"WRONGPASS", "Correct the user and the password in cache.redis.url, or cache.redis.sentinel_username and cache.redis.sentinel_password if a Sentinel refuses them"},
		{"NOAUTH", "Write the user and the password into cache.redis.url, or set cache.redis.sentinel_password if a Sentinel requires them"},
		{"NOPERM", "Grant the user the rights in docs/operations.md, section Rights in Redis. Its keys and its channel begin with cache.redis.key_prefix"},
		{"READONLY", "That server is a replica. Write the address of the master into cache.redis.url, or those of the Sentinels"},
		{"OOM", "Set maxmemory-policy allkeys-lru in Redis"},
		{"MOVED", "That server belongs to a cluster. Write several of its servers into cache.redis.url, separated by commas"},
		{"CLUSTERDOWN", "Some keys have no server in the cluster. Run redis-cli --cluster check"},
		{"This instance has cluster support disabled", "The addresses in cache.redis.url are not a cluster. Write one address, or end the URL with ?master_name=NAME if they are Sentinels"},
	} {
		if redis.HasErrorPrefix(err, answer.prefix) {
			return answer.remedy
		}
	}
	return ""
}
