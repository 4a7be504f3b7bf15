<?php

use Illuminate\Database\Migrations\Migration;
use Illuminate\Support\Facades\DB;

/** A view, a trigger, a function, a procedure and an event: a dump without them is no backup. */
return new class extends Migration
{
    public function up(): void
    {
        DB::unprepared(<<<'SQL'
            CREATE VIEW user_totals AS
              SELECT u.id, u.email, COUNT(o.id) AS orders, COALESCE(SUM(o.total), 0) AS total
              FROM users u LEFT JOIN orders o ON o.user_id = u.id AND o.status <> 'cancelled'
              GROUP BY u.id, u.email
            SQL);
        DB::unprepared(<<<'SQL'
            CREATE TRIGGER orders_audit AFTER UPDATE ON orders FOR EACH ROW
            BEGIN
              IF NOT (OLD.status <=> NEW.status) THEN
                INSERT INTO audit_log (user_id, action, subject, payload)
                VALUES (NEW.user_id, 'order.status', NEW.reference, JSON_OBJECT('from', OLD.status, 'to', NEW.status));
              END IF;
            END
            SQL);
        DB::unprepared(<<<'SQL'
            CREATE FUNCTION user_orders_total(uid BIGINT UNSIGNED) RETURNS DECIMAL(16,2)
            READS SQL DATA
            BEGIN
              RETURN (SELECT COALESCE(SUM(total), 0) FROM orders WHERE user_id = uid AND status <> 'cancelled');
            END
            SQL);
        DB::unprepared(<<<'SQL'
            CREATE PROCEDURE cancel_order(IN ref VARCHAR(26) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci)
            MODIFIES SQL DATA
            BEGIN
              UPDATE orders SET status = 'cancelled' WHERE reference = ref AND status IN ('new', 'paid');
            END
            SQL);
        DB::unprepared(<<<'SQL'
            CREATE EVENT prune_api_tokens ON SCHEDULE EVERY 1 DAY
            COMMENT 'old login tokens'
            DO DELETE FROM api_tokens WHERE expires_at < NOW() - INTERVAL 30 DAY
            SQL);
    }

    public function down(): void
    {
        DB::unprepared('DROP EVENT IF EXISTS prune_api_tokens');
        DB::unprepared('DROP PROCEDURE IF EXISTS cancel_order');
        DB::unprepared('DROP FUNCTION IF EXISTS user_orders_total');
        DB::unprepared('DROP TRIGGER IF EXISTS orders_audit');
        DB::unprepared('DROP VIEW IF EXISTS user_totals');
    }
};
