	SELECT COUNT(*) FROM tenant_keys WHERE role = 'data'
	SELECT COUNT(*) FROM tenant_keys WHERE role = 'index'
	SELECT COUNT(*), COUNT(DISTINCT e.tenant) FROM recovery_evidence e WHERE NOT EXISTS (SELECT 1 FROM heartbeats h WHERE h.tenant = e.tenant AND h.epoch > e.epoch)
	SELECT COUNT(DISTINCT tenant) FROM tenant_keys WHERE role = 'destroyed'
	SELECT MIN(newest) FROM (SELECT MAX(created) AS newest FROM tenant_keys WHERE role = 'data' GROUP BY tenant) AS keys
	SELECT created, restored FROM deployment_restore WHERE id = 1
	SELECT current_setting('synchronous_commit'), current_setting('synchronous_standby_names')
	SELECT fingerprint, source, wrapped FROM sealing_keys ORDER BY created, fingerprint
	SELECT name FROM deployment WHERE id = 1
	SELECT position FROM log_head WHERE id = 1
	SELECT position FROM log_head WHERE id = 1 FOR UPDATE
	SELECT sealing_key FROM deployment WHERE id = 1
	SELECT sealing_key FROM deployment WHERE id = 1 FOR UPDATE
	SELECT sealing_key, keys_changed FROM deployment WHERE id = 1
	SELECT state, place FROM deployment_move WHERE id = 1
	SELECT tenant FROM tenant_keys WHERE role = 'index' ORDER BY tenant
	SELECT tenant, person, erased FROM tombstones ORDER BY tenant, person
	UPDATE deployment SET keys_changed = keys_changed + 1 WHERE id = 1
bigint	SELECT tenant, site FROM heartbeats WHERE issued < $1 ORDER BY issued LIMIT 10000
bigint	UPDATE log_head SET position = $1 WHERE id = 1
bigint,bigint	SELECT position, tenant, stream, revision, event, data_key, sealed FROM records WHERE position > $1 ORDER BY position LIMIT $2
bigint,bigint,bigint,text,text,bigint,text,text,bytea	WITH moved AS (UPDATE log_head SET position = $1 WHERE id = 1 AND position = $2 RETURNING id) INSERT INTO records (position, tenant, stream, revision, event, data_key, sealed) SELECT * FROM (VALUES ($3, $4, $5, $6, $7, $8, $9)) AS new WHERE EXISTS (SELECT 1 FROM moved)
bigint,bigint,bigint,text,text,bigint,text,text,bytea,bigint,text,text,bigint,text,text,bytea	WITH moved AS (UPDATE log_head SET position = $1 WHERE id = 1 AND position = $2 RETURNING id) INSERT INTO records (position, tenant, stream, revision, event, data_key, sealed) SELECT * FROM (VALUES ($3, $4, $5, $6, $7, $8, $9), ($10, $11, $12, $13, $14, $15, $16)) AS new WHERE EXISTS (SELECT 1 FROM moved)
bigint,bigint,bigint,text,text,bigint,text,text,bytea,bigint,text,text,bigint,text,text,bytea,bigint,text,text,bigint,text,text,bytea	WITH moved AS (UPDATE log_head SET position = $1 WHERE id = 1 AND position = $2 RETURNING id) INSERT INTO records (position, tenant, stream, revision, event, data_key, sealed) SELECT * FROM (VALUES ($3, $4, $5, $6, $7, $8, $9), ($10, $11, $12, $13, $14, $15, $16), ($17, $18, $19, $20, $21, $22, $23)) AS new WHERE EXISTS (SELECT 1 FROM moved)
bigint,text	UPDATE checkpoints SET position = $1 WHERE name = $2
bigint,text,bigint	UPDATE leaders SET expires = $1 WHERE name = $2 AND token = $3
bigint,text,bigint	UPDATE reactors SET position = $1 WHERE name = $2 AND token = $3
bigint,text,text,bigint,text,text,bytea	INSERT INTO records (position, tenant, stream, revision, event, data_key, sealed) VALUES ($1, $2, $3, $4, $5, $6, $7)
bigint,text,text,bigint,text,text,bytea,bigint,text,text,bigint,text,text,bytea	INSERT INTO records (position, tenant, stream, revision, event, data_key, sealed) VALUES ($1, $2, $3, $4, $5, $6, $7), ($8, $9, $10, $11, $12, $13, $14)
bigint,text,text,text,bigint	UPDATE views SET valid_to = $1 WHERE tenant = $2 AND kind = $3 AND id = $4 AND revision = $5
bytea,text,text,text	UPDATE tenant_keys SET sealed = $1, sealing_key = $2 WHERE tenant = $3 AND id = $4
text	DELETE FROM agent_ratchets WHERE tenant = $1
text	DELETE FROM agent_reports WHERE tenant = $1
text	DELETE FROM heartbeats WHERE tenant = $1
text	DELETE FROM person_keys WHERE tenant = $1
text	DELETE FROM receipts WHERE tenant = $1
text	DELETE FROM recovery_evidence WHERE tenant = $1
text	DELETE FROM relay WHERE tenant = $1
text	DELETE FROM sealing_keys WHERE fingerprint = $1 AND NOT EXISTS (SELECT 1 FROM deployment WHERE sealing_key = $1)
text	DELETE FROM secrets WHERE tenant = $1
text	DELETE FROM view_handles WHERE tenant = $1
text	DELETE FROM view_terms WHERE tenant = $1
text	DELETE FROM views WHERE tenant = $1
text	INSERT INTO checkpoints (name, position) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING
text	SELECT 1 FROM tenant_keys WHERE tenant = $1 AND role = 'index'
text	SELECT id, role, sealed FROM tenant_keys WHERE tenant = $1 ORDER BY created, id
text	SELECT id, role, sealed, sealing_key FROM tenant_keys WHERE tenant = $1 ORDER BY created, id
text	SELECT position FROM checkpoints WHERE name = $1
text	SELECT position FROM checkpoints WHERE name = $1 FOR UPDATE
text	SELECT r.id, r.agent, r.site, r.incarnation, r.seq, r.outcome, r.data_key, r.sealed, o.id, o.data_key, o.sealed FROM receipts r LEFT JOIN receipts o ON o.tenant = r.tenant AND o.agent = r.agent AND o.incarnation = r.incarnation AND o.seq = r.outcome_seq WHERE r.tenant = $1 AND r.outcome IS NOT NULL ORDER BY r.time DESC, r.id DESC LIMIT 4
text	UPDATE deployment SET name = $1 WHERE id = 1 AND name IS NULL
text	UPDATE deployment SET sealing_key = $1 WHERE id = 1
text,bigint	DELETE FROM relay WHERE tenant = $1 AND expires < $2
text,bigint	INSERT INTO deployment (id, sealing_key, created) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING
text,bigint	INSERT INTO reactors (name, position, token) VALUES ($1, 0, $2) ON CONFLICT (name) DO UPDATE SET token = excluded.token WHERE reactors.token <= excluded.token RETURNING position
text,bigint	SELECT 1 FROM recovery_evidence WHERE tenant = $1 AND epoch >= $2 LIMIT 1
text,bigint	SELECT agent FROM agent_reports WHERE tenant = $1 AND at >= $2
text,bigint,bigint	SELECT position, tenant, stream, revision, event, data_key, sealed FROM records WHERE tenant = $1 ORDER BY position LIMIT $2 OFFSET $3
text,bytea	DELETE FROM secrets WHERE tenant = $1 AND name = $2
text,bytea	SELECT data_key, sealed FROM blobs WHERE tenant = $1 AND name = $2
text,bytea	SELECT data_key, sealed FROM secrets WHERE tenant = $1 AND name = $2
text,bytea	SELECT r.id, r.agent, r.site, r.incarnation, r.seq, r.outcome, r.data_key, r.sealed, o.id, o.data_key, o.sealed FROM receipts r LEFT JOIN receipts o ON o.tenant = r.tenant AND o.agent = r.agent AND o.incarnation = r.incarnation AND o.seq = r.outcome_seq WHERE r.tenant = $1 AND r.outcome IS NOT NULL AND r.operation = $2 ORDER BY r.time ASC, r.id ASC LIMIT 6
text,bytea,bigint,bigint	SELECT COUNT(*), MIN(time), MAX(time), MAX(id) FROM receipts WHERE tenant = $1 AND key = $2 AND outcome IS NOT NULL AND outcome <> 'refused' AND outcome <> 'failed' AND time >= $3 AND time < $4 GROUP BY caller, operation, key_version ORDER BY MAX(time) DESC, MAX(id) LIMIT 501
text,bytea,text	UPDATE tenant_keys SET role = $1, sealed = $2, sealing_key = NULL WHERE tenant = $3
text,bytea,text,bytea	INSERT INTO blobs (tenant, name, data_key, sealed) VALUES ($1, $2, $3, $4) ON CONFLICT (tenant, name) DO NOTHING
text,bytea,text,bytea,bigint	INSERT INTO secrets (tenant, name, data_key, sealed, created) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, name) DO NOTHING
text,bytea,text,bytea,bigint	INSERT INTO secrets (tenant, name, data_key, sealed, created) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, name) DO UPDATE SET data_key = excluded.data_key, sealed = excluded.sealed, created = excluded.created
text,text	DELETE FROM person_keys WHERE tenant = $1 AND person = $2
text,text	DELETE FROM relay WHERE tenant = $1 AND recipient = $2
text,text	SELECT 1 FROM tombstones WHERE tenant = $1 AND person IN ($2, '')
text,text	SELECT COUNT(*) FROM tenant_keys WHERE role <> $1 AND (sealing_key IS NULL OR sealing_key <> $2)
text,text	SELECT COUNT(*) FROM tenant_keys WHERE role <> $1 AND sealing_key = $2
text,text	SELECT data_key, sealed FROM agent_ratchets WHERE tenant = $1 AND agent = $2
text,text	SELECT epoch, serial FROM heartbeats WHERE tenant = $1 AND site = $2
text,text	SELECT epoch, serial, issued, envelope, members FROM heartbeats WHERE tenant = $1 AND site = $2
text,text	SELECT id, data_key, sealed FROM person_keys WHERE tenant = $1 AND person = $2 ORDER BY created, id
text,text	SELECT r.id, r.agent, r.site, r.incarnation, r.seq, r.outcome, r.data_key, r.sealed, o.id, o.data_key, o.sealed FROM receipts r LEFT JOIN receipts o ON o.tenant = r.tenant AND o.agent = r.agent AND o.incarnation = r.incarnation AND o.seq = r.outcome_seq WHERE r.tenant = $1 AND r.id = $2 AND r.outcome IS NOT NULL
text,text	SELECT recipient, id, data_key, sealed FROM relay WHERE tenant = $1 AND recipient = $2 AND sender IS NOT NULL AND version IS NULL ORDER BY at, id LIMIT 100
text,text	SELECT recipient, id, data_key, sealed FROM relay WHERE tenant = $1 AND recipient = $2 AND sender IS NOT NULL ORDER BY at, id LIMIT 100
text,text	SELECT recipient, id, data_key, sealed FROM relay WHERE tenant = $1 AND recipient = $2 AND version IS NOT NULL ORDER BY at, id LIMIT 100
text,text	SELECT tenant, id FROM view_handles WHERE handle = $1 AND kind = $2
text,text	SELECT tenant, id, role, sealed, sealing_key FROM tenant_keys WHERE role <> $1 AND (sealing_key IS NULL OR sealing_key <> $2) ORDER BY tenant, id LIMIT 100 FOR UPDATE
text,text	SELECT v.id, v.revision, v.valid_from, v.valid_to, v.data_key, v.sealed FROM views v WHERE v.tenant = $1 AND v.kind = $2 AND v.valid_to IS NULL ORDER BY v.id ASC LIMIT 2
text,text	SELECT v.id, v.revision, v.valid_from, v.valid_to, v.data_key, v.sealed FROM views v WHERE v.tenant = $1 AND v.kind = $2 AND v.valid_to IS NULL ORDER BY v.id ASC LIMIT 200
text,text	SELECT v.id, v.revision, v.valid_from, v.valid_to, v.data_key, v.sealed FROM views v WHERE v.tenant = $1 AND v.kind = $2 AND v.valid_to IS NULL ORDER BY v.id ASC LIMIT 21
text,text	SELECT v.id, v.revision, v.valid_from, v.valid_to, v.data_key, v.sealed FROM views v WHERE v.tenant = $1 AND v.kind = $2 AND v.valid_to IS NULL ORDER BY v.id ASC LIMIT 3
text,text	SELECT v.id, v.revision, v.valid_from, v.valid_to, v.data_key, v.sealed FROM views v WHERE v.tenant = $1 AND v.kind = $2 AND v.valid_to IS NULL ORDER BY v.id ASC LIMIT 501
text,text	SELECT v.id, v.revision, v.valid_from, v.valid_to, v.data_key, v.sealed FROM views v WHERE v.tenant = $1 AND v.kind = $2 AND v.valid_to IS NULL ORDER BY v.id ASC LIMIT 6
text,text	SELECT v.id, v.revision, v.valid_from, v.valid_to, v.data_key, v.sealed FROM views v WHERE v.tenant = $1 AND v.kind = $2 AND v.valid_to IS NULL ORDER BY v.id DESC LIMIT 200
text,text	WITH wanted (tenant, stream) AS (VALUES ($1, $2)) SELECT tenant, stream, (SELECT MAX(revision) FROM records WHERE records.tenant = wanted.tenant AND records.stream = wanted.stream) FROM wanted
text,text,bigint	INSERT INTO tombstones (tenant, person, erased) VALUES ($1, $2, $3) ON CONFLICT (tenant, person) DO NOTHING
text,text,bigint,bigint	INSERT INTO leaders (name, holder, token, expires) VALUES ($1, $2, 1, $3) ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, token = leaders.token + 1, expires = excluded.expires WHERE leaders.expires < $4 RETURNING token
text,text,bigint,bigint	SELECT position, tenant, stream, revision, event, data_key, sealed FROM records WHERE tenant = $1 AND stream = $2 AND revision > $3 ORDER BY revision LIMIT $4
text,text,bigint,bigint,bigint,bytea,text	INSERT INTO heartbeats (tenant, site, epoch, serial, issued, envelope, members) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, site) DO NOTHING
text,text,bigint,bigint,bigint,bytea,text	UPDATE heartbeats SET epoch = $3, serial = $4, issued = $5, envelope = $6, members = $7 WHERE tenant = $1 AND site = $2 AND epoch <= $3 AND serial = $4 - 1
text,text,bigint,text,bytea	INSERT INTO agent_ratchets (tenant, agent, counter, data_key, sealed) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING
text,text,bigint,text,bytea,bigint	UPDATE agent_ratchets SET counter = $3, data_key = $4, sealed = $5 WHERE tenant = $1 AND agent = $2 AND counter = $6
text,text,bytea	SELECT v.id, v.revision, v.valid_from, v.valid_to, v.data_key, v.sealed FROM views v WHERE v.tenant = $1 AND v.kind = $2 AND v.valid_to IS NULL AND EXISTS (SELECT 1 FROM view_terms t WHERE t.tenant = v.tenant AND t.kind = v.kind AND t.term IN ($3) AND t.id = v.id AND t.revision = v.revision) ORDER BY v.id
text,text,bytea	SELECT v.id, v.revision, v.valid_from, v.valid_to, v.data_key, v.sealed FROM views v WHERE v.tenant = $1 AND v.kind = $2 AND v.valid_to IS NULL AND v.parent = $3 ORDER BY v.id ASC LIMIT 501
text,text,bytea,bigint	INSERT INTO sealing_keys (fingerprint, source, wrapped, created) VALUES ($1, $2, $3, $4) ON CONFLICT (fingerprint) DO UPDATE SET source = excluded.source, wrapped = excluded.wrapped
text,text,bytea,text	SELECT v.id, v.revision, v.valid_from, v.valid_to, v.data_key, v.sealed FROM views v WHERE v.tenant = $1 AND v.kind = $2 AND v.valid_to IS NULL AND v.parent = $3 AND v.state IN ($4) ORDER BY v.id ASC LIMIT 501
text,text,bytea,text,bigint	INSERT INTO view_terms (tenant, kind, term, id, revision) VALUES ($1, $2, $3, $4, $5)
text,text,bytea,text,bigint,text,text,bytea,text,bigint	INSERT INTO view_terms (tenant, kind, term, id, revision) VALUES ($1, $2, $3, $4, $5), ($6, $7, $8, $9, $10)
text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint	INSERT INTO view_terms (tenant, kind, term, id, revision) VALUES ($1, $2, $3, $4, $5), ($6, $7, $8, $9, $10), ($11, $12, $13, $14, $15)
text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint	INSERT INTO view_terms (tenant, kind, term, id, revision) VALUES ($1, $2, $3, $4, $5), ($6, $7, $8, $9, $10), ($11, $12, $13, $14, $15), ($16, $17, $18, $19, $20)
text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint	INSERT INTO view_terms (tenant, kind, term, id, revision) VALUES ($1, $2, $3, $4, $5), ($6, $7, $8, $9, $10), ($11, $12, $13, $14, $15), ($16, $17, $18, $19, $20), ($21, $22, $23, $24, $25), ($26, $27, $28, $29, $30)
text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint	INSERT INTO view_terms (tenant, kind, term, id, revision) VALUES ($1, $2, $3, $4, $5), ($6, $7, $8, $9, $10), ($11, $12, $13, $14, $15), ($16, $17, $18, $19, $20), ($21, $22, $23, $24, $25), ($26, $27, $28, $29, $30), ($31, $32, $33, $34, $35), ($36, $37, $38, $39, $40)
text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint,text,text,bytea,text,bigint	INSERT INTO view_terms (tenant, kind, term, id, revision) VALUES ($1, $2, $3, $4, $5), ($6, $7, $8, $9, $10), ($11, $12, $13, $14, $15), ($16, $17, $18, $19, $20), ($21, $22, $23, $24, $25), ($26, $27, $28, $29, $30), ($31, $32, $33, $34, $35), ($36, $37, $38, $39, $40), ($41, $42, $43, $44, $45), ($46, $47, $48, $49, $50), ($51, $52, $53, $54, $55), ($56, $57, $58, $59, $60)
text,text,text	DELETE FROM relay WHERE tenant = $1 AND recipient = $2 AND prekey NOT IN ($3)
text,text,text	SELECT COUNT(*) FROM relay WHERE tenant = $1 AND recipient = $2 AND sender = $3 AND version IS NULL
text,text,text	SELECT DISTINCT recipient, prekey, version FROM relay WHERE tenant = $1 AND site = $2 AND recipient <> $3 AND version IS NOT NULL LIMIT 5000
text,text,text	SELECT expires FROM relay WHERE tenant = $1 AND recipient = $2 AND prekey = $3 AND sender IS NULL
text,text,text	SELECT recipient, id, data_key, sealed FROM relay WHERE tenant = $1 AND site = $2 AND recipient <> $3 AND sender IS NULL ORDER BY at, id
text,text,text	SELECT revision, valid_from, data_key, sealed FROM views WHERE tenant = $1 AND kind = $2 AND id = $3 AND valid_to IS NULL
text,text,text	SELECT v.id, v.revision, v.valid_from, v.valid_to, v.data_key, v.sealed FROM views v WHERE v.tenant = $1 AND v.kind = $2 AND v.valid_to IS NULL AND v.id IN ($3) ORDER BY v.id
text,text,text,bigint,bigint	SELECT seq, chain FROM receipts WHERE tenant = $1 AND agent = $2 AND incarnation = $3 AND (seq IN ($4, $5) OR seq = (SELECT MAX(seq) FROM receipts WHERE tenant = $1 AND agent = $2 AND incarnation = $3))
text,text,text,bigint,bigint,bigint,bigint,bytea,bytea,text,text,bytea	INSERT INTO views (tenant, kind, id, revision, position, valid_from, valid_to, parent, name, state, data_key, sealed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
text,text,text,bigint,bigint,bigint,bigint,bytea,bytea,text,text,bytea,text,text,text,bigint,bigint,bigint,bigint,bytea,bytea,text,text,bytea	INSERT INTO views (tenant, kind, id, revision, position, valid_from, valid_to, parent, name, state, data_key, sealed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12), ($13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)
text,text,text,bigint,bigint,bigint,bigint,bytea,bytea,text,text,bytea,text,text,text,bigint,bigint,bigint,bigint,bytea,bytea,text,text,bytea,text,text,text,bigint,bigint,bigint,bigint,bytea,bytea,text,text,bytea	INSERT INTO views (tenant, kind, id, revision, position, valid_from, valid_to, parent, name, state, data_key, sealed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12), ($13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24), ($25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36)
text,text,text,bigint,bigint,text,bytea	INSERT INTO agent_reports (tenant, agent, site, at, heartbeat, data_key, sealed) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, agent) DO UPDATE SET site = excluded.site, at = excluded.at, heartbeat = excluded.heartbeat, data_key = excluded.data_key, sealed = excluded.sealed
text,text,text,bigint,text,text,bigint,bytea,bytea,bytea,bytea,bytea,text,bigint,text,bytea,text,text,text,bigint,text,text,bigint,bytea,bytea,bytea,bytea,bytea,text,bigint,text,bytea,text,text,text,bigint,text,text,bigint,bytea,bytea,bytea,bytea,bytea,text,bigint,text,bytea	INSERT INTO receipts (tenant, agent, incarnation, seq, id, site, time, chain, caller, key, key_version, operation, outcome, outcome_seq, data_key, sealed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16), ($17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32), ($33, $34, $35, $36, $37, $38, $39, $40, $41, $42, $43, $44, $45, $46, $47, $48)
text,text,text,bytea,bigint	INSERT INTO tenant_keys (tenant, id, role, sealed, created) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, id) DO NOTHING
text,text,text,bytea,bigint,text,text	INSERT INTO tenant_keys (tenant, id, role, sealed, created, sealing_key) SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), $4, (SELECT CASE WHEN COALESCE(MAX(created), 0) >= $5 THEN MAX(created) + 1 ELSE $5 END FROM tenant_keys WHERE tenant = $1), CAST($6 AS TEXT) WHERE NOT EXISTS (SELECT 1 FROM tenant_keys WHERE tenant = $1 AND role = $7) ON CONFLICT (tenant, id) DO NOTHING
text,text,text,text	DELETE FROM relay WHERE tenant = $1 AND recipient = $2 AND sender IS NOT NULL AND id IN ($3, $4)
text,text,text,text	INSERT INTO view_handles (handle, tenant, kind, id) VALUES ($1, $2, $3, $4) ON CONFLICT (handle) DO NOTHING
text,text,text,text,bytea,bigint	INSERT INTO person_keys (tenant, person, id, data_key, sealed, created) SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), $5, (SELECT CASE WHEN COALESCE(MAX(created), 0) >= $6 THEN MAX(created) + 1 ELSE $6 END FROM person_keys WHERE tenant = $1 AND person = $2) WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE tenant = $1 AND person IN ($2, ''))
text,text,text,text,text	DELETE FROM relay WHERE tenant = $1 AND recipient = $2 AND sender IS NOT NULL AND id IN ($3, $4, $5)
text,text,text,text,text	SELECT COUNT(*), SUM(CASE WHEN prekey = $3 AND version = $4 AND sender = $5 THEN 1 ELSE 0 END) FROM relay WHERE tenant = $1 AND recipient = $2 AND sender IS NOT NULL
text,text,text,text,text,text,text,bigint,bigint,text,bytea	INSERT INTO relay (tenant, recipient, id, site, prekey, sender, version, at, expires, data_key, sealed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (tenant, recipient, id) DO NOTHING
text,text,text,text,text,text,text,text	INSERT INTO view_handles (handle, tenant, kind, id) VALUES ($1, $2, $3, $4), ($5, $6, $7, $8) ON CONFLICT (handle) DO NOTHING
